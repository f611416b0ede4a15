"""Mistakes to plant in norms, parallel blocks, partial RoPE, scales, caps and the bias of a head."""

from tests.numerics.mutations import K, L, Mutation

BLOCKS = [
    Mutation(
        "the norm of q passes its gradient on as it came",
        f"{L}/attention.py",
        "dq = norm_layer_bwd(",
        "norm_layer_bwd(",
        "layer attention_layer",
    ),
    Mutation(
        "the norm of k passes its gradient on as it came",
        f"{L}/attention.py",
        "dk = norm_layer_bwd(",
        "norm_layer_bwd(",
        "layer attention_layer",
    ),
    Mutation(
        "q and k normed after RoPE, on the way back alone",
        f"{L}/attention.py",
        """    if saved.rope_q is not None and saved.rope_k is not None:
        dq, _, _ = rt.ops.rope_bwd(dq, saved.rope_q)
        dk, _, _ = rt.ops.rope_bwd(dk, saved.rope_k)
    if spec.qk_norm is not None:
        dq = norm_layer_bwd(rt, spec.qk_norm, f"{name}.q_norm", dq, saved.q_norm, grads)
        dk = norm_layer_bwd(rt, spec.qk_norm, f"{name}.k_norm", dk, saved.k_norm, grads)
""",
        """    if spec.qk_norm is not None:
        dq = norm_layer_bwd(rt, spec.qk_norm, f"{name}.q_norm", dq, saved.q_norm, grads)
        dk = norm_layer_bwd(rt, spec.qk_norm, f"{name}.k_norm", dk, saved.k_norm, grads)
    if saved.rope_q is not None and saved.rope_k is not None:
        dq, _, _ = rt.ops.rope_bwd(dq, saved.rope_q)
        dk, _, _ = rt.ops.rope_bwd(dk, saved.rope_k)
""",
        "layer attention_layer",
    ),
    Mutation(
        "a gate's gradient without the factor up",
        f"{L}/mlp.py",
        "dy * saved.up, saved.activation)",
        "dy, saved.activation)",
        "layer mlp",
    ),
    Mutation(
        "up's gradient times the gate before its activation",
        f"{L}/mlp.py",
        "return dgate, dy * saved.a",
        "return dgate, dy * saved.activation[0]",
        "layer mlp",
    ),
    Mutation(
        "a parallel MLP passes no gradient to the norm that it read",
        f"{L}/block.py",
        "dn = dn + dn_mlp",
        "pass",
        "layer block",
    ),
    Mutation(
        "a parallel MLP's gradient passes the norm by",
        f"{L}/block.py",
        "dn = dn + dn_mlp",
        "dx = dx + dn_mlp",
        "layer block",
    ),
    Mutation(
        "the MLP reads x, and passes its gradient to the norm of x",
        f"{L}/block.py",
        'mlp.fwd(rt, spec.mlp, params, f"{name}.{MLP}", n, context)',
        'mlp.fwd(rt, spec.mlp, params, f"{name}.{MLP}", x, context)',
        "layer block",
    ),
    Mutation(
        "features that are not rotated lose their gradient",
        f"{K}/rope.py",
        "dy2 * cos - dy1 * sin, dy3,",
        "dy2 * cos - dy1 * sin, 0.0 * dy3,",
        "op rope",
    ),
    Mutation(
        "pairs of the whole head are turned back, where a part was turned",
        f"{K}/rope.py",
        "dy1, dy2, dy3 = _split(dyw, cos.shape[-1], pairs)",
        "n = cos.shape[-1]; dy1, dy2, dy3 = dyw[..., :n], dyw[..., -n:], dyw[..., n:-n]",
        "op rope",
    ),
    Mutation(
        "neighbours turned back as halves",
        f"{K}/rope.py",
        "_split(dyw, cos.shape[-1], pairs)",
        "_split(dyw, cos.shape[-1], HALVES)",
        "op rope",
    ),
    Mutation(
        "the gradient of neighbours put together half after half",
        f"{K}/rope.py",
        "dy2 * cos - dy1 * sin, dy3, pairs)",
        "dy2 * cos - dy1 * sin, dy3, HALVES)",
        "op rope",
    ),
    Mutation(
        "the head's bias forgotten where logits are made again",
        f"{K}/linear_cross_entropy.py",
        "logits, _ = linear_fwd(x_rows, weight, bias)",
        "logits, _ = linear_fwd(x_rows, weight)",
        "op linear_cross_entropy",
    ),
    Mutation(
        "one chunk's gradient of the head's bias overwrites another's",
        f"{K}/linear_cross_entropy.py",
        "dbias = dbias_part if dbias is None else dbias + dbias_part",
        "dbias = dbias_part",
        "op linear_cross_entropy",
    ),
    Mutation(
        "the head's bias gets the gradient of an average",
        f"{K}/linear_cross_entropy.py",
        "dweight, None, dbias",
        "dweight, None, None if dbias is None else dbias / x.shape[0]",
        "op linear_cross_entropy",
    ),
    Mutation(
        "the head's bias forgotten by the forward pass of inference",
        "xplm/models/decoder.py",
        "head, params.get(HEAD_BIAS))",
        "head)",
        "model phi",
    ),
    Mutation(
        "the norm of the mixer's output passes its gradient on as it came",
        f"{L}/block.py",
        "dy = _norm_bwd(",
        "_norm_bwd(",
        "layer block",
    ),
    Mutation(
        "the norm of the MLP's output passes its gradient on as it came",
        f"{L}/block.py",
        "dz = _norm_bwd(",
        "_norm_bwd(",
        "layer block",
    ),
    Mutation(
        "the scale of the branches left out on the way back into the MLP",
        f"{L}/block.py",
        "dz = scaled(dz, spec.branch_scale)",
        "pass",
        "layer block",
    ),
    Mutation(
        "a parallel MLP passes no gradient through the norm of its own",
        f"{L}/block.py",
        "elif spec.is_parallel:\n        dx = _past",
        "elif spec.is_parallel:\n        _past",
        "layer block",
    ),
    Mutation(
        "the gradient of what is added to 1 loses the factor",
        f"{L}/norm.py",
        "rt.ops.rms_norm_bwd(dyw, saved)",
        "rt.ops.rms_norm_bwd(dyw, saved._replace(weight=saved.weight - spec.offset))",
        "layer norm_layer",
    ),
    Mutation(
        "the cap's derivative forgotten",
        f"{K}/linear_cross_entropy.py",
        "cast(dz, wide) * (1.0 - t * t) * scale",
        "cast(dz, wide) * scale",
        "op linear_cross_entropy",
    ),
    Mutation(
        "the cap's derivative lacks the square",
        f"{K}/linear_cross_entropy.py",
        "(1.0 - t * t)",
        "(1.0 - t)",
        "op linear_cross_entropy",
    ),
    Mutation(
        "the scale of capped logits forgotten on the way back",
        f"{K}/linear_cross_entropy.py",
        "(1.0 - t * t) * scale",
        "(1.0 - t * t)",
        "op linear_cross_entropy",
    ),
    Mutation(
        "the cap forgotten where logits are made again",
        f"{K}/linear_cross_entropy.py",
        "logits = scale_and_cap(logits, scale, cap)",
        "logits = scale_and_cap(logits, scale, None)",
        "op linear_cross_entropy",
    ),
    Mutation(
        "the embedding's gradient lacks its factor",
        "xplm/models/decoder.py",
        "drows = scaled(dx, _embedding_scale(rt, config))",
        "drows = dx",
        "layer embed",
    ),
    Mutation(
        "scale and cap forgotten by the forward pass of inference",
        "xplm/models/decoder.py",
        "return scale_and_cap(logits, config.logit_scale, config.logit_cap)",
        "return logits",
        "model norms around",
    ),
]

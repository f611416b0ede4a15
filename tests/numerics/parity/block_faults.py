"""Faults to plant for parity in norms, parallel blocks, partial RoPE, scales, caps and the bias of a head."""

from tests.numerics.block_mutations import BLOCKS as MUTATIONS
from tests.numerics.parity.arithmetic_faults import K, L, PlantedFault, op_fault

Q_NORM = 'q, q_norm_saved = norm_layer_fwd(rt, spec.qk_norm, params, f"{name}.q_norm", q)'
NORMS = """    if spec.qk_norm is not None:
        q, k = _normed_rows(rt, spec, q), _normed_rows(rt, spec, k)
"""

BLOCKS = [
    *(op_fault(mutation) for mutation in MUTATIONS if mutation.check.startswith("op ")),
    PlantedFault(
        "q and k normed after RoPE",
        f"{L}/attention.py",
        NORMS,
        """    if spec.rope is not None:
        cos, sin = context.ropes[spec.rope]
        q, k = cut_heads(rt, q, spec.head_dim), cut_heads(rt, k, spec.head_dim)
        q, rope_q_saved = rt.ops.rope_fwd(q, cos, sin, pairs=spec.rope.pairs)
        k, rope_k_saved = rt.ops.rope_fwd(k, cos, sin, pairs=spec.rope.pairs)
        q, k = join_heads(rt, q), join_heads(rt, k)
        spec = replace(spec, rope=None)
"""
        + NORMS,
        "qwen3",
        "and rope forward at model.layers.0.self_attn",
        shared=False,
    ),
    PlantedFault(
        "q normed by the weight of k",
        f"{L}/attention.py",
        Q_NORM,
        Q_NORM.replace('q_norm"', 'k_norm"'),
        "phi, norms of q and k",
        "and layer_norm forward at model.layers.0.self_attn.k_norm",
        shared=False,
    ),
    PlantedFault(
        "the norm of q passes its gradient on as it came",
        f"{L}/attention.py",
        "dq = norm_layer_bwd(",
        "norm_layer_bwd(",
        "qwen3",
        "and linear backward at model.layers.1.self_attn.q_proj",
        shared=False,
    ),
    PlantedFault(
        "a norm of each head in place of all heads",
        f"{L}/attention.py",
        Q_NORM,
        Q_NORM
        + """
        xp, (B, T) = rt.backend.xp, q.shape[:2]
        rows = xp.reshape(q, (B, T, -1, spec.head_dim))
        rows = rows / xp.sqrt(xp.mean(rows * rows, axis=-1, keepdims=True) + 1e-3)
        q = cast(xp.reshape(rows, (B, T, -1)), q.dtype)""",
        "norms of all heads, cap",
        "and rope forward at model.layers.0.self_attn",
        shared=False,
    ),
    PlantedFault(
        "the cap after the mask",
        f"{K}/attention.py",
        "        scores = cap * xp.tanh(scores / cap)\n",
        """        if visible is not None:
            scores = xp.where(visible, scores, xp.full_like(scores, -float("inf")))
        scores, visible = cap * xp.tanh(scores / cap), None
""",
        "norms of all heads, cap",
        "attention forward",
    ),
    PlantedFault(
        "the cap before the scale",
        f"{K}/attention.py",
        "scores = cap * xp.tanh(scores / cap)",
        "scores = scale * cap * xp.tanh(scores / scale / cap)",
        "norms of all heads, cap",
        "attention forward",
    ),
    PlantedFault(
        "the sink left out of the denominator",
        f"{K}/attention.py",
        "probs, saved = softmax_fwd(scores, visible, island=island)",
        """probs, saved = softmax_fwd(scores, visible, island=island)
    if sinks is not None:
        probs = probs / xp.sum(probs[..., :-1], axis=-1, keepdims=True)""",
        "norms of each head, sinks",
        "attention forward",
    ),
    PlantedFault(
        "one head's sink in the place of another's",
        f"{K}/attention.py",
        "xp.reshape(cast(sinks, sums), (K, G, 1, 1))",
        "xp.reshape(cast(xp.flip(sinks), sums), (K, G, 1, 1))",
        "norms of each head, sinks",
        "attention forward",
    ),
    PlantedFault(
        "sinks left out over a cache",
        f"{L}/attention.py",
        "attention_fwd(q, k, v, first, sinks, start=start, **options)",
        "attention_fwd(q, k, v, first, start=start, **options)",
        "norms of each head, sinks",
        "cache",
    ),
    PlantedFault(
        "a parallel MLP reads x",
        f"{L}/block.py",
        'mlp.fwd(rt, spec.mlp, params, f"{name}.{MLP}", n, context)',
        'mlp.fwd(rt, spec.mlp, params, f"{name}.{MLP}", x, context)',
        "phi",
        "and linear forward at model.layers.0.mlp.up_proj",
        shared=False,
    ),
    PlantedFault(
        "a parallel MLP passes no gradient to the norm that it read",
        f"{L}/block.py",
        "dn = dn + dn_mlp",
        "pass",
        "phi",
        "and layer_norm backward at model.layers.1.input_layernorm",
        shared=False,
    ),
    PlantedFault(
        "frequencies of a share of a head as if it were the whole",
        "xplm/models/decoder.py",
        "rope_tables(own, inv_freq,",
        "rope_tables(own, inv_freq**0.5,",
        "phi, norms of q and k",
        "rope tables",
    ),
    PlantedFault(
        "all of a head rotated where a part is",
        f"{K}/rope.py",
        "x1, x2, x3 = _split(xw, cos.shape[-1], pairs)",
        "n = cos.shape[-1]; x1, x2, x3 = xw[..., :n], xw[..., -n:], xw[..., n:-n]",
        "phi",
        "rope forward",
    ),
    PlantedFault(
        "the head's bias left out of the loss",
        f"{K}/linear_cross_entropy.py",
        "linear_fwd(cast(x[rows, :], island), weight, bias)",
        "linear_fwd(cast(x[rows, :], island), weight)",
        "phi",
        "linear_cross_entropy forward",
    ),
    PlantedFault(
        "the head's bias left out of the logits",
        "xplm/models/decoder.py",
        "head, params.get(HEAD_BIAS))",
        "head)",
        "phi",
        "and linear forward at lm_head",
        shared=False,
    ),
    PlantedFault(
        "the norm of the mixer's output left out",
        f"{L}/block.py",
        "y, mixer_output = _norm_fwd(",
        "_, mixer_output = _norm_fwd(",
        "norms around",
        "and linear forward at model.layers.0.mlp.up_proj",
        shared=False,
    ),
    PlantedFault(
        "the norm of the MLP's output left out",
        f"{L}/block.py",
        "y, mlp_output = _norm_fwd(",
        "_, mlp_output = _norm_fwd(",
        "norms around",
        "between rms_norm forward at model.layers.0.mlp.down_proj and rms_norm",
        shared=False,
    ),
    PlantedFault(
        "a norm scales by its weight, not by 1 + weight",
        f"{L}/norm.py",
        "cast(cast(weight, island) + spec.offset, island)",
        "cast(cast(weight, island) + 0.0, island)",
        "norms around",
        "and rms_norm forward at model.layers.0.self_attn.o_proj",
        shared=False,
    ),
    PlantedFault(
        "a parallel MLP reads the mixer's norm, not its own",
        f"{L}/block.py",
        "n, mlp_norm_saved = norm_layer_fwd(",
        "_, mlp_norm_saved = norm_layer_fwd(",
        "two norms of x",
        "and linear forward at model.layers.0.mlp.up_proj",
        shared=False,
    ),
    PlantedFault(
        "the scale of a branch left out",
        f"{L}/block.py",
        'drop(f"{name}.{MIXER}", scaled(y, spec.branch_scale))',
        'drop(f"{name}.{MIXER}", y)',
        "norms around",
        "and linear forward at model.layers.0.mlp.up_proj",
        shared=False,
    ),
    PlantedFault(
        "the embedding's factor left out",
        "xplm/models/decoder.py",
        "x = scaled(cast(x, rt.dtype.compute), _embedding_scale(rt, config))",
        "x = cast(x, rt.dtype.compute)",
        "norms around",
        "between embedding forward at model.embed_tokens and",
        shared=False,
    ),
    PlantedFault(
        "the cap of the logits left out",
        "xplm/models/decoder.py",
        "return scale_and_cap(logits, config.logit_scale, config.logit_cap)",
        "return scale_and_cap(logits, config.logit_scale, None)",
        "norms around",
        "between linear forward at model.embed_tokens and the end",
        shared=False,
    ),
]

"""Mistakes to plant in latent attention, and in the norms and the rotation within it."""

from tests.numerics.mutations import L, Mutation

FILE = f"{L}/latent_attention.py"
CHECK = "layer attention_layer"

LATENT = [
    Mutation(
        "the rotated part of k takes the gradient of one head",
        FILE,
        "_sum_over_heads(rt, dk[..., N:]), saved.rope_k",
        "dk[:, :1, :, N:], saved.rope_k",
        CHECK,
    ),
    Mutation(
        "an odd head is left out of the sum over heads",
        FILE,
        "total = xp.concat([pairs, total[:, H // 2 * 2 :, ...]], axis=1)",
        "total = pairs",
        CHECK,
    ),
    Mutation(
        "the gradients of the keys' and the values' part of kv_b_proj swapped",
        FILE,
        "dkv = xp.concat([dk[..., :N], dv], axis=-1)",
        "dkv = xp.concat([dv, dk[..., :N]], axis=-1)",
        CHECK,
    ),
    Mutation(
        "the norm of the latent passes its gradient on as it came",
        FILE,
        'dc = norm_layer_bwd(rt, spec.norm, f"{name}.kv_a_layernorm"',
        'norm_layer_bwd(rt, spec.norm, f"{name}.kv_a_layernorm"',
        CHECK,
    ),
    Mutation(
        "the norm of q's latent passes its gradient on as it came",
        FILE,
        'da = norm_layer_bwd(rt, spec.norm, f"{name}.q_a_layernorm"',
        'norm_layer_bwd(rt, spec.norm, f"{name}.q_a_layernorm"',
        CHECK,
    ),
    Mutation(
        "the first features of q turned back, where the last were turned",
        FILE,
        """    dq2, _, _ = rt.ops.rope_bwd(dq[..., spec.nope_dim :], saved.rope)
    dq = rt.backend.xp.concat([dq[..., : spec.nope_dim], dq2], axis=-1)
""",
        """    dq2, _, _ = rt.ops.rope_bwd(dq[..., : spec.rope.dim], saved.rope)
    dq = rt.backend.xp.concat([dq2, dq[..., spec.rope.dim :]], axis=-1)
""",
        CHECK,
    ),
    Mutation(
        "the rotated part of k not turned back",
        FILE,
        "dp, _, _ = rt.ops.rope_bwd(_sum_over_heads(rt, dk[..., N:]), saved.rope_k)",
        "dp = _sum_over_heads(rt, dk[..., N:])",
        CHECK,
    ),
    Mutation(
        "the queries pass no gradient to x",
        FILE,
        "return dx + _queries_back(rt, spec, name, dq, saved.q, grads)",
        "_queries_back(rt, spec, name, dq, saved.q, grads)\n    return dx",
        CHECK,
    ),
]

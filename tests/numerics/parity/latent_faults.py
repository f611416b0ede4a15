"""Faults to plant for parity in latent attention."""

from tests.numerics.parity.arithmetic_faults import L, PlantedFault

FILE = f"{L}/latent_attention.py"
MODEL = "deepseek_v3"

LATENT = [
    PlantedFault(
        "the first features of q rotated",
        FILE,
        """    q2, rope_saved = _rotated(rt, spec, q2, context)
    q = rt.backend.xp.concat([q1, q2], axis=-1)
""",
        """    q2, rope_saved = _rotated(rt, spec, q[..., : spec.rope.dim], context)
    q = rt.backend.xp.concat([q2, q[..., spec.rope.dim :]], axis=-1)
""",
        MODEL,
        "and rope forward at model.layers.0.self_attn.q_b_proj",
        shared=False,
    ),
    PlantedFault(
        "the latent's first features rotated in place of the part behind it",
        FILE,
        "_rotated(rt, spec, both[:, None, :, R:], context)",
        "_rotated(rt, spec, both[:, None, :, : spec.rope.dim], context)",
        MODEL,
        "and rope forward at model.layers.0.self_attn.kv_a_layernorm",
        shared=False,
    ),
    PlantedFault(
        "the rotated part of k taken anew by each head",
        FILE,
        "    every = xp.broadcast_to(p, (*k1.shape[:3], p.shape[3]))\n",
        "    every = xp.concat([p * (h + 1) for h in range(k1.shape[1])], axis=1)\n",
        MODEL,
        "and attention forward at model.layers.0.self_attn.kv_b_proj",
        shared=False,
    ),
    PlantedFault(
        "keys and values swapped in what the latent gives",
        FILE,
        "    k1, v = kv[..., : spec.nope_dim], kv[..., spec.nope_dim :]\n",
        "    v, k1 = kv[..., : spec.value_dim], kv[..., spec.value_dim :]\n",
        MODEL,
        "and attention forward at model.layers.0.self_attn.kv_b_proj",
        shared=False,
    ),
    PlantedFault(
        "the latent without its norm",
        FILE,
        "    k, v, b_saved = _expand(rt, spec, params, name, c, p)\n",
        "    k, v, b_saved = _expand(rt, spec, params, name, both[..., :R], p)\n",
        MODEL,
        "and linear forward at model.layers.0.self_attn.kv_b_proj",
        shared=False,
    ),
    PlantedFault(
        "q's latent without its norm",
        FILE,
        'a, norm_saved = norm_layer_fwd(rt, spec.norm, params, f"{name}.q_a_layernorm", a)',
        '_, norm_saved = norm_layer_fwd(rt, spec.norm, params, f"{name}.q_a_layernorm", a)',
        MODEL,
        "and linear forward at model.layers.0.self_attn.q_b_proj",
        shared=False,
    ),
    PlantedFault(
        "scores multiplied by mscale once",
        FILE,
        "q, k, v, start=0, scale=spec.scale, island",
        "q, k, v, start=0, scale=(spec.scale * spec.head_dim**-0.5) ** 0.5, island",
        MODEL,
        "and attention forward at model.layers.0.self_attn.kv_b_proj",
        shared=False,
    ),
    PlantedFault(
        "one head's gradient for the rotated part of k",
        FILE,
        "_sum_over_heads(rt, dk[..., N:]), saved.rope_k",
        "dk[:, :1, :, N:], saved.rope_k",
        MODEL,
        "and rope backward at model.layers.1.self_attn",
        shared=False,
    ),
]

"""Faults to plant for parity in norms of q and k, parallel blocks, partial RoPE and the bias of a head."""

from tests.numerics.block_mutations import BLOCKS as MUTATIONS
from tests.numerics.parity.arithmetic_faults import K, L, PlantedFault, op_fault

QK_NORM = """    if spec.qk_norm is not None:
        q, q_norm_saved = norm_layer_fwd(rt, spec.qk_norm, params, f"{name}.q_norm", q)
        k, k_norm_saved = norm_layer_fwd(rt, spec.qk_norm, params, f"{name}.k_norm", k)
"""
ROPE = """    if spec.rope is not None:
        cos, sin = context.ropes[spec.rope]
        q, rope_q_saved = rt.ops.rope_fwd(q, cos, sin, pairs=spec.rope.pairs)
        k, rope_k_saved = rt.ops.rope_fwd(k, cos, sin, pairs=spec.rope.pairs)
"""

BLOCKS = [
    *(op_fault(mutation) for mutation in MUTATIONS if mutation.check.startswith("op ")),
    PlantedFault(
        "q and k normed after RoPE",
        f"{L}/attention.py",
        QK_NORM + ROPE,
        ROPE + QK_NORM,
        "qwen3",
        "and rope forward at model.layers.0.self_attn",
        shared=False,
    ),
    PlantedFault(
        "q normed by the weight of k",
        f"{L}/attention.py",
        'q, q_norm_saved = norm_layer_fwd(rt, spec.qk_norm, params, f"{name}.q_norm", q)',
        'q, q_norm_saved = norm_layer_fwd(rt, spec.qk_norm, params, f"{name}.k_norm", q)',
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
]

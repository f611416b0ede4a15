"""Faults of gradients and of precision to plant for parity, with the place where it must say that they are."""

from typing import NamedTuple

from tests.numerics.mutations import KERNELS, PUBLISHED

K = "xplm/kernels"
L = "xplm/layers"


class PlantedFault(NamedTuple):
    says: str
    path: str
    old: str  # occurs once in the file
    new: str
    run: str  # "op NAME", or the small model to run
    place: str  # what the location must contain
    shared: bool = True  # whether the reference has it too; False: it is the test's side alone


def op_fault(mutation):
    """A wrong gradient, which the op alone shows."""
    name = mutation.check.split()[1]
    return PlantedFault(
        mutation.says, mutation.path, mutation.old, mutation.new, mutation.check, f"{name} backward"
    )


GRADIENTS = [op_fault(m) for m in PUBLISHED + KERNELS if m.check.startswith("op ")]

HALF = "__import__('ml_dtypes').bfloat16"

PRECISION = [
    PlantedFault(
        "RoPE tables in bfloat16",
        f"{K}/rope.py",
        "cast_host(np.cos(angles) * scale, dtype), cast_host(np.sin(angles) * scale, dtype)",
        f"tuple((f(angles) * scale).astype({HALF}).astype(dtype) for f in (np.cos, np.sin))",
        "llama",
        "rope tables",
    ),
    PlantedFault(
        "RoPE angles in float16",
        f"{K}/rope.py",
        "angles = cast_host(angles, dtype)",
        "angles = angles.astype(np.float16).astype(dtype)",
        "llama, K = 1, biases",
        "rope tables",
    ),
    PlantedFault(
        "RoPE rotates in bfloat16",
        f"{K}/rope.py",
        "xw = cast(x, cos.dtype)",
        f"xw = cast(x, cos.dtype); cos = cos.astype({HALF}).astype(cos.dtype)",
        "llama",
        "rope forward",
    ),
    PlantedFault(
        "RMSNorm statistics in bfloat16",
        f"{K}/rms_norm.py",
        "xw = cast(x, island)",
        f"xw = cast(x, island); island = {HALF}",
        "llama",
        "rms_norm forward",
    ),
    PlantedFault(
        "RMSNorm's mean square in float16",
        f"{K}/rms_norm.py",
        "rstd = cast(1.0 / xp.sqrt(mean_square + eps), island)",
        "rstd = cast(1.0 / xp.sqrt(cast(mean_square, xp.float16) + eps), island)",
        "llama",
        "rms_norm forward",
    ),
    PlantedFault(
        "LayerNorm's variance in bfloat16",
        f"{K}/layer_norm.py",
        "variance = xp.mean(centred * centred, axis=-1, keepdims=True)",
        "variance = xp.mean(centred * centred, axis=-1, keepdims=True)"
        f".astype({HALF}).astype(island)",
        "gpt2",
        "layer_norm forward",
    ),
    PlantedFault(
        "a matrix product accumulated in bfloat16",
        f"{K}/linear.py",
        "y = rows @ cast(weight, wide).T",
        f"total = 0.0\n    for c in range(rows.shape[1]): total = (total + (rows[:, c:c+1] * "
        f"cast(weight, wide).T[c:c+1])).astype({HALF}).astype(wide)\n    y = total",
        "llama",
        "linear forward",
    ),
    PlantedFault(
        "a matrix product accumulated in float16",
        f"{K}/linear.py",
        "y = rows @ cast(weight, wide).T",
        "total = 0.0\n    for c in range(rows.shape[1]): total = (total + (rows[:, c:c+1] * "
        "cast(weight, wide).T[c:c+1])).astype(xp.float16).astype(wide)\n    y = total",
        "qwen2",
        "linear forward",
    ),
    PlantedFault(
        "dweight of a product accumulated in bfloat16",
        f"{K}/linear.py",
        "dweight = dyw.T @ rows",
        f"dweight = 0.0\n    for n in range(rows.shape[0]): dweight = (dweight + dyw[n][:, None] * "
        f"rows[n]).astype({HALF}).astype(wide)",
        "op linear",
        "linear backward",
    ),
    PlantedFault(
        "softmax in bfloat16",
        f"{K}/softmax.py",
        "e = xp.exp(scores - highest)",
        f"e = xp.exp((scores - highest).astype({HALF}).astype(scores.dtype))",
        "llama",
        "attention forward",
    ),
    PlantedFault(
        "attention's products in bfloat16",
        f"{K}/attention.py",
        "scores = qw @ xp.matrix_transpose(kw)  # (B, K, G, t, s)",
        f"scores = (qw @ xp.matrix_transpose(kw)).astype({HALF}).astype(sums)",
        "llama",
        "attention forward",
    ),
    PlantedFault(
        "the loss of a batch in bfloat16",
        f"{K}/cross_entropy.py",
        "lse = highest[:, 0] + xp.log(xp.sum(xp.exp(xw - highest), axis=-1))",
        f"lse = highest[:, 0] + xp.log(xp.sum(xp.exp(xw - highest), axis=-1).astype({HALF})"
        ".astype(island))",
        "op cross_entropy",
        "cross_entropy forward",
    ),
    PlantedFault(
        "SwiGLU's gate rounded on its way",
        f"{K}/swiglu.py",
        "y = g * sigmoid(g) * cast(up, wide)",
        "y = (g * sigmoid(g)).astype(xp.float16).astype(wide) * cast(up, wide) * (1.0 + 2.0**-9)",
        "llama",
        "swiglu forward",
    ),
]

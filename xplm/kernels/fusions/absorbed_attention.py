"""Attention over a cache of latents, whose projection to keys and values is absorbed by the queries and the output.

A head with the rows A (N, R) and B (Dv, R) of the projection has the keys A c and the values B c of the latents c, and
P features more of a key, p, that all heads share. With q = q1, q2 of N and P features,

    q1 . (A c) + q2 . p = (q1 A) . c + q2 . p
    sum_s P_s (B c_s)   = B (sum_s P_s c_s)

so queries (q1 A, q2) attend to c, p as the keys of a single head and as its values too, where the sum over p is left
out, and B is applied to the sum over c. Keys and values of the heads are never made.

Source: DeepSeek-AI, "DeepSeek-V2", arXiv:2405.04434, section 2.1.2.

Numerics. Both products accumulate in the wide dtype; q1 A and the sum of latents are rounded to q's dtype, as keys and
values would be.
"""

from xplm.kernels.fusions.cached_attention import cached_attention
from xplm.namespace import array_namespace
from xplm.precision import cast, wide_dtype
from xplm.typing import Array, DType
from xplm.views import KeyView, LatentView


def absorbed_attention(
    q: Array,
    view: LatentView,
    weight: Array,
    *,
    scale: float,
    island: DType | None = None,
) -> Array:
    """Attention of every head over shared latents.   q (B, H, T, N + P); weight (H (N + Dv), R)  ->  y (B, H, T, Dv)
    q.dtype
    """
    xp = array_namespace(q)
    wide = wide_dtype(q, xp)
    H, R = q.shape[1], weight.shape[1]
    N = q.shape[3] - (view.latents.shape[3] - R)
    rows = xp.reshape(cast(weight, wide), (H, -1, R))
    A, B = rows[:, :N, :], rows[:, N:, :]  # (H, N, R), (H, Dv, R)

    absorbed = cast(cast(q[..., :N], wide) @ A, q.dtype)  # (B, H, T, R)
    q = xp.concat([absorbed, q[..., N:]], axis=-1)
    shared = KeyView(view.latents, view.latents, view.rows)
    sums = cached_attention(q, shared, scale=scale, island=island)[..., :R]  # (B, H, T, R)
    return cast(cast(sums, wide) @ xp.matrix_transpose(B), q.dtype)

"""Attention over a cache: the view's rows are gathered, and attended to as in training.

k, v = the slots so far of each row, moved so that all rows end in the same slot
y    = attention(q, k, v)
"""

from xplm.kernels.attention import attention_fwd
from xplm.typing import Array, DType
from xplm.views import KeyView, gather


def cached_attention(
    q: Array,
    view: KeyView,
    *,
    scale: float,
    window: int | None = None,
    island: DType | None = None,
) -> Array:
    """y = softmax(scale q k^T) v over the keys that each query sees.   q (B, H, T, D)  ->  y (B, H, T, Dv) q.dtype"""
    k, v, first, start = gather(view, q.shape[2])
    y, _ = attention_fwd(q, k, v, first, start=start, scale=scale, window=window, island=island)
    return y

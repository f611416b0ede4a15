"""Attention over a cache: the view's rows are gathered, and attended to as in training.

k, v = the slots so far of each row, moved so that all rows end in the same slot
y    = attention(q, k, v)
"""

from typing import Any

from xplm.kernels.attention import attention_fwd
from xplm.typing import Array, DType
from xplm.views import KeyView, PagedView, gather


def cached_attention(
    q: Array,
    view: KeyView | PagedView,
    sinks: Array | None = None,
    *,
    scale: float,
    window: int | None = None,
    cap: float | None = None,
    island: DType | None = None,
) -> Array:
    """y = softmax(scale q k^T) v over the keys that each query sees.   q (B, H, T, D); sinks (H,)  ->  y (B, H, T, Dv)
    q.dtype
    """
    k, v, first, start = gather(view, q.shape[2])
    options: dict[str, Any] = {"scale": scale, "window": window, "cap": cap, "island": island}
    y, _ = attention_fwd(q, k, v, first, sinks, start=start, **options)
    return y

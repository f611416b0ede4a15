"""Attention over a cache. What it computes: `xplm.kernels.fusions.cached_attention`.

Few queries a row read the cache where it is (`xplm_numpy.attention_decode`), each row as far as it has come, its slots
in one stretch or in pages. More of them are attended to as in training, rows that start in different slots one after
the other, or moved to end in the same one where they are in pages.
"""

import numpy as np

from xplm.kernels.fusions.cached_attention import cached_attention as portable
from xplm.views import PagedView, gather
from xplm_numpy.attention_decode import (
    FEW_QUERIES,
    NO_PADDING,
    attend_any,
    dense_slots,
    paged_slots,
    sink_bits,
)
from xplm_numpy.kernels.attention import attention_fwd
from xplm_numpy.narrow import bits, in_float32, takes


def cached_attention(q, view, sinks=None, *, scale, window=None, cap=None, island=None):
    options = {"scale": scale, "window": window, "cap": cap, "island": island}
    if not takes(q, view.keys, view.values, sinks) or not in_float32(island):
        return portable(q, view, sinks, **options)

    T, rows = q.shape[2], view.rows
    if rows.latest > 0 and T <= FEW_QUERIES:
        return attend_to_view(q, view, sinks, scale, window, cap)

    if isinstance(view, PagedView):
        k, v, first, start = gather(view, T)
        return attention_fwd(q, k, v, first, sinks, start=start, **options)[0]

    def attend_to(some, start):
        seen = view.keys[some, :, : start + T], view.values[some, :, : start + T]
        return attention_fwd(q[some], *seen, None, sinks, start=start, **options)[0]

    if rows.is_even:
        return attend_to(slice(None), rows.latest)
    return np.concatenate([attend_to(slice(b, b + 1), n) for b, n in enumerate(rows.begins)])


def attend_to_view(q, view, sinks, scale, window, cap):
    """`cached_attention` as `xplm_numpy.attention_decode` computes it, of arrays that kernels take."""
    keys, values = bits(view.keys), bits(view.values)
    slots = paged_slots(keys, view.map) if isinstance(view, PagedView) else dense_slots(keys)
    starts = np.asarray(view.rows.starts, np.int64)
    given = sink_bits(sinks), starts, scale, window, cap
    sums, _ = attend_any(bits(q), keys, values, slots, NO_PADDING, *given)
    return sums.astype(q.dtype, copy=False)

"""Attention over a cache. What it computes: `xplm.kernels.fusions.cached_attention`.

Few queries a row read the cache where it is (`xplm_numpy.attention_decode`), each row as far as it has come. More of
them are attended to as in training, rows that start in different slots one after the other.
"""

import numpy as np

from xplm.kernels.fusions.cached_attention import cached_attention as portable
from xplm.views import PagedView
from xplm_numpy.attention_decode import NO_PADDING, attend, sink_bits
from xplm_numpy.kernels.attention import FEW_QUERIES, attention_fwd
from xplm_numpy.narrow import bits, in_float32, takes


def cached_attention(q, view, sinks=None, *, scale, window=None, cap=None, island=None):
    options = {"scale": scale, "window": window, "cap": cap, "island": island}
    if isinstance(view, PagedView) or not takes(q, view.keys, view.values, sinks):
        return portable(q, view, sinks, **options)
    if not in_float32(island):
        return portable(q, view, sinks, **options)
    keys, values, rows = view

    T = q.shape[2]
    if rows.latest > 0 and T <= FEW_QUERIES:
        arrays = bits(q), bits(keys), bits(values), NO_PADDING, sink_bits(sinks)
        seen = np.float32(scale), window or 0, np.float32(cap or 0.0)
        sums, _ = attend(*arrays, np.asarray(rows.starts, np.int64), *seen)
        return sums.astype(q.dtype, copy=False)

    def attend_to(some, start):
        seen = keys[some, :, : start + T], values[some, :, : start + T]
        return attention_fwd(q[some], *seen, None, sinks, start=start, **options)[0]

    if rows.is_even:
        return attend_to(slice(None), rows.latest)
    return np.concatenate([attend_to(slice(b, b + 1), n) for b, n in enumerate(rows.begins)])

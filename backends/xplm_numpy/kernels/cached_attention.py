"""Attention over a cache. What it computes: `xplm.kernels.fusions.cached_attention`.

Few queries a row read the cache where it is (`xplm_numpy.attention_decode`), each row as far as it has come. More of
them are attended to as in training, rows that start in different slots one after the other.
"""

import numpy as np

from xplm.kernels.fusions.cached_attention import cached_attention as portable
from xplm_numpy.attention_decode import NO_PADDING, attend
from xplm_numpy.kernels.attention import FEW_QUERIES, attention_fwd
from xplm_numpy.narrow import bits, in_float32, takes


def cached_attention(q, view, *, scale, window=None, island=None):
    keys, values, starts, latest, is_even = view
    options = {"scale": scale, "window": window, "island": island}
    if not takes(q, keys, values) or not in_float32(island):
        return portable(q, view, **options)

    B, _, T, _ = q.shape
    if latest > 0 and T <= FEW_QUERIES:
        arrays = bits(q), bits(keys), bits(values), NO_PADDING
        sums, _ = attend(*arrays, np.asarray(starts, np.int64), np.float32(scale), window or 0)
        return sums.astype(q.dtype, copy=False)

    groups = (
        [(slice(None), latest)]
        if is_even
        else [(slice(b, b + 1), int(starts[b])) for b in range(B)]
    )
    found = []
    for rows, start in groups:
        end = start + T
        seen = keys[rows, :, :end], values[rows, :, :end]
        found.append(attention_fwd(q[rows], *seen, start=start, **options)[0])
    return found[0] if is_even else np.concatenate(found)

"""Embedding's gradient as the scatter-add that it is. Derivation and signatures: `xplm.kernels.embedding`.

Bytes in float32: dy is read once, and a row of dweight is read and written for each row of dy. One FLOP a number.
Threads share the columns, 64 to a block, and each adds the rows in their order.
"""

import numpy as np
from numba import prange

from xplm.kernels import embedding as portable
from xplm_numpy.jit import parallel, serial
from xplm_numpy.narrow import bits, contiguous, takes, widen

COLUMNS_PER_BLOCK = 64


def embedding_bwd(dy, saved):
    ids, weight = saved
    if not takes(dy):
        return portable.embedding_bwd(dy, saved)
    dweight = np.zeros(weight.shape, np.float32)
    places = contiguous(ids, np.int64).reshape(-1)
    _scatter(places, bits(dy).reshape(-1, weight.shape[1]), dweight)
    return None, dweight


@parallel()
def _scatter(ids, dy, dweight):
    C = dy.shape[1]
    for b in prange(-(-C // COLUMNS_PER_BLOCK)):
        begin = np.int64(b) * COLUMNS_PER_BLOCK
        _scatter_columns(ids, dy, dweight, begin, min(C, begin + COLUMNS_PER_BLOCK))


@serial()
def _scatter_columns(ids, dy, dweight, begin, end):
    for t in range(len(ids)):
        v = ids[t]
        for c in range(begin, end):
            dweight[v, c] += widen(dy[t, c])

"""The weighted sum of each token's experts, fused. Derivation and signatures: `xplm.kernels.expert_sum`.

Bytes in float32: 4 (k + 1) C a token; FLOPs: 2 k C. No token's rows are gathered. Backward is the portable kernel's.
"""

import numpy as np
from numba import prange

from xplm.kernels import expert_sum as portable
from xplm.kernels.expert_sum import ExpertSumSaved
from xplm_numpy.arrays import zeros
from xplm_numpy.jit import parallel, serial
from xplm_numpy.narrow import bits, narrow, takes, widen

TOKENS_PER_BLOCK = 16
NO_WEIGHTS = np.empty((0, 0), np.float32)


def expert_sum_fwd(rows, places, weights=None):
    if not takes(rows, weights):
        return portable.expert_sum_fwd(rows, places, weights)
    y = np.empty((len(places), rows.shape[1]), rows.dtype)
    shares = NO_WEIGHTS if weights is None else weights.astype(np.float32, copy=False)
    _forward(bits(rows), np.array(places, np.int64, order="C"), bits(shares), bits(y))
    return y, ExpertSumSaved(rows, places, weights)


def expert_sum_bwd(dy, saved):
    return portable.expert_sum_bwd(dy, saved)


@parallel()
def _forward(rows, places, weights, y):
    N = len(y)
    if N <= TOKENS_PER_BLOCK:
        _forward_tokens(rows, places, weights, y, 0, N)
    else:
        for b in prange(-(-N // TOKENS_PER_BLOCK)):
            begin = np.int64(b) * TOKENS_PER_BLOCK
            _forward_tokens(rows, places, weights, y, begin, min(N, begin + TOKENS_PER_BLOCK))


@serial()
def _forward_tokens(rows, places, weights, y, begin, end):
    C, k = rows.shape[1], places.shape[1]
    for n in range(begin, end):
        total = zeros((C,))
        for j in range(k):
            share = weights[n, j] if len(weights) > 0 else np.float32(1.0)
            for c in range(C):
                total[c] += share * widen(rows[places[n, j], c])
        for c in range(C):
            y[n, c] = narrow(total[c], y)

"""A linear map of each expert's rows, fused where memory is what limits it. Derivation: `xplm.kernels.expert_linear`.

Up to MAX_ROWS rows, one call reads the weights of all experts that have rows, each once and widened in registers: N C
numbers an expert, so that one token that chooses k of E experts reads k / E of the layer. Beyond, and backward, each
expert is a product of the fused linear map.
"""

import numpy as np
from numba import prange

from xplm.kernels import expert_linear as portable
from xplm.kernels.expert_linear import ExpertLinearSaved, rows_of_experts
from xplm.kernels.linear import LinearSaved
from xplm_numpy.arrays import empty
from xplm_numpy.gemv import count_blocks, count_rows, multiply, row_of, with_bias
from xplm_numpy.jit import parallel
from xplm_numpy.kernels.linear import MAX_ROWS, linear_bwd, linear_fwd
from xplm_numpy.narrow import FLOAT32, bits, dense, narrow, takes, widen_rows


def expert_linear_fwd(x, weight, bias=None, *, counts):
    if not takes(x, weight, bias):
        return portable.expert_linear_fwd(x, weight, bias, counts=counts)
    y = np.empty((len(x), weight.shape[1]), x.dtype)
    if len(x) <= MAX_ROWS:
        parts = [(e, own.start, own.stop) for e, own in rows_of_experts(counts)]
        stored = bits(weight)
        biases = np.empty((len(weight), 0), stored.dtype) if bias is None else bits(bias)
        _multiply(bits(x), stored, biases, np.array(parts), bits(y))
    else:
        for e, own in rows_of_experts(counts):
            y[own] = linear_fwd(x[own], dense(weight[e]), _of_expert(bias, e))[0]
    return y, ExpertLinearSaved(x, weight, bias, counts)


def expert_linear_bwd(dy, saved, *, is_frozen=False):
    x, weight, bias, counts = saved
    if not takes(dy, x, weight, bias):
        return portable.expert_linear_bwd(dy, saved, is_frozen=is_frozen)
    dx = np.empty(x.shape, x.dtype)
    dweight = None if is_frozen else np.zeros(weight.shape, FLOAT32)
    dbias = None if is_frozen or bias is None else np.zeros(bias.shape, FLOAT32)
    for e, own in rows_of_experts(counts):
        forward = LinearSaved(x[own], dense(weight[e]), _of_expert(bias, e))
        dx[own], of_weight, of_bias = linear_bwd(dy[own], forward, is_frozen=is_frozen)
        if dweight is not None:
            dweight[e] = of_weight
        if dbias is not None:
            dbias[e] = of_bias
    return dx, dweight, dbias


def _of_expert(bias, e):
    return None if bias is None else bias[e]


@parallel()
def _multiply(x, weight, bias, parts, y):
    """All experts with rows.   parts (active, 3): an expert, its first row, and the row after its last"""
    M, N = y.shape
    rows, sums = widen_rows(x), empty((M, N))
    blocks = count_blocks(weight[0])
    for unsigned in prange(len(parts) * blocks):
        part, block = np.int64(unsigned) // blocks, np.int64(unsigned) % blocks
        e, begin, end = parts[part, 0], parts[part, 1], parts[part, 2]
        multiply(rows[begin:end], weight[e], block, sums[begin:end])
        for i in range(count_rows(N, block)):
            n = row_of(N, block, i)
            for m in range(begin, end):
                y[m, n] = narrow(with_bias(sums[m], bias[e], n), y)

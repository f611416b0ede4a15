"""The kernels of the mode "invariant": a row's bits are the same whatever is computed beside it, and in how many calls.

Fused kernels keep that promise wherever they compute each row by itself in an order of its own, and a fusion does where
it rounds as its ops do. Two kinds do not: BLAS multiplies in an order that depends on the number of rows, and attention
to a whole prompt has blocks that begin with its queries. In their place stand here the products and the attention of
decoding, for any number of rows; and the one op that only a fusion computes otherwise than NumPy.

What a kernel does not take raises here, for its portable twin keeps no such promise; `xplm.runtime` refuses policies
of other dtypes beforehand.
"""

import numpy as np
from numba import prange

from xplm.kernels.expert_linear import ExpertLinearSaved, rows_of_experts
from xplm.kernels.gelu_erf import GeluErfSaved
from xplm.kernels.linear import LinearSaved
from xplm_numpy.activations import gelu_erf
from xplm_numpy.blocks import BLOCK, block_of
from xplm_numpy.gemm_by_rows import multiply_rows
from xplm_numpy.jit import parallel
from xplm_numpy.kernels import expert_linear as few_experts
from xplm_numpy.kernels.absorbed_attention import absorb
from xplm_numpy.kernels.attention import attention_by_blocks
from xplm_numpy.kernels.cached_attention import attend_to_view
from xplm_numpy.kernels.linear import MAX_ROWS
from xplm_numpy.narrow import bias_bits, bits, in_float32, narrow, takes, widen
from xplm_numpy.whole import widened


def linear_fwd(x, weight, bias=None):
    _check(x, weight, bias)
    N, C = weight.shape
    y = np.empty((*x.shape[:-1], N), x.dtype)
    rows = widened(x).reshape(-1, C)
    multiply_rows(rows, bits(weight), bias_bits(bias, weight), bits(y).reshape(len(rows), N))
    return y, LinearSaved(x, weight, bias)


def expert_linear_fwd(x, weight, bias=None, *, counts):
    _check(x, weight, bias)
    if len(x) <= MAX_ROWS:
        return few_experts.expert_linear_fwd(x, weight, bias, counts=counts)
    y = np.empty((len(x), weight.shape[1]), x.dtype)
    for e, own in rows_of_experts(counts):
        y[own] = linear_fwd(x[own], weight[e], None if bias is None else bias[e])[0]
    return y, ExpertLinearSaved(x, weight, bias, counts)


def attention_fwd(
    q, k, v, first=None, sinks=None, *, start, scale, window=None, cap=None, island=None
):
    _check(q, k, v, sinks, island=island)
    seen = {"start": start, "scale": scale, "window": window, "cap": cap}
    return attention_by_blocks(q, k, v, first, sinks, **seen)


def cached_attention(q, view, sinks=None, *, scale, window=None, cap=None, island=None):
    _check(q, view.keys, view.values, sinks, island=island)
    return attend_to_view(q, view, sinks, scale, window, cap)


def absorbed_attention(q, view, weight, *, scale, island=None):
    _check(q, view.latents, weight, island=island)
    return absorb(cached_attention, q, view, weight, scale=scale, island=island)


def gelu_erf_fwd(x):
    _check(x)
    y = np.empty(x.shape, x.dtype)
    _gelu_erf(bits(x).reshape(-1), bits(y).reshape(-1))
    return y, GeluErfSaved(x)


@parallel()
def _gelu_erf(x, y):
    for block in prange(-(-len(x) // BLOCK)):
        begin, end = block_of(block, BLOCK, len(x))
        own, out = x[begin:end], y[begin:end]
        for i in range(len(own)):
            out[i] = narrow(gelu_erf(widen(own[i])), out)


def _check(*arrays, island=None):
    assert takes(*arrays), f"kernels take float32, bfloat16 and float16; got {_dtypes(arrays)}"
    assert in_float32(island), f"islands are float32; got {island}"


def _dtypes(arrays):
    return ", ".join(str(array.dtype) for array in arrays if array is not None)


INVARIANT = {
    kernel.__name__: kernel
    for kernel in (
        linear_fwd,
        expert_linear_fwd,
        attention_fwd,
        cached_attention,
        absorbed_attention,
        gelu_erf_fwd,
    )
}
"""What the mode puts in the place of fused kernels."""

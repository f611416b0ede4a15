"""Norms, MLP and residual in one call. What it computes: `xplm.kernels.fusions.norm_mlp_residual`.

Bytes: those of the weights, 2 C F numbers and with a gate 3 C F; FLOPs: 2 B of each.
"""

import numpy as np
from numba import prange

from xplm.kernels.fusions.norm_mlp_residual import norm_mlp_residual as portable
from xplm.kernels.parts.norms import RMS
from xplm_numpy.activations import (
    CODES,
    IS_GELU,
    IS_GELU_ERF,
    IS_RELU,
    IS_SILU,
    gelu,
    gelu_erf,
    relu,
    silu,
)
from xplm_numpy.arrays import empty
from xplm_numpy.gemv import STREAMS, count_blocks, finish, multiply, row_of
from xplm_numpy.halves import KINDS, add_branch, norm_bits, normalise
from xplm_numpy.jit import exact, parallel
from xplm_numpy.narrow import (
    alike,
    bias_bits,
    bits,
    in_float32,
    narrow,
    takes,
    weight_bits,
    widen,
    widen_rows,
)

STRETCH = 16
"""Blocks of one matrix that are read before those of the other: a processor foresees what is read in a row."""


def norm_mlp_residual(
    x, residual, norm, gate_weight, up_weight, down_weight, gate_bias, up_bias, down_bias, output_norm=None, *,
    activation="silu", branch_scale=1.0, norm_kind=RMS, eps, island=None,
):  # fmt: skip
    weights, biases = (gate_weight, up_weight, down_weight), (gate_bias, up_bias, down_bias)
    is_taken = takes(x, residual, norm, *weights, *biases, output_norm) and alike(weights)
    if x.shape[1] != 1 or not in_float32(island) or not is_taken:
        return portable(
            x, residual, norm, *weights, *biases, output_norm, activation=activation, branch_scale=branch_scale,
            norm_kind=norm_kind, eps=eps, island=island,
        )  # fmt: skip

    y = np.empty(x.shape, x.dtype)
    compute(
        bits(x),
        bits(residual),
        norm_bits(norm, norm_kind),
        *(weight_bits(weight, up_weight) for weight in weights),
        *(bias_bits(bias, up_weight) for bias in biases),
        norm_bits(output_norm, norm_kind),
        CODES[activation],
        np.float32(branch_scale),
        KINDS[norm_kind],
        np.float32(eps),
        bits(y),
    )
    return y


@parallel()
def compute(
    x, residual, norm, gate_weight, up_weight, down_weight, gate_bias, up_bias, down_bias, output_norm,
    activation, branch_scale, kind, eps, y,
):  # fmt: skip
    B, _, C = x.shape
    F, is_gated = len(up_weight), len(gate_weight) > 0
    rows = widen_rows(x.reshape(B, C))
    normalise(rows, norm, kind, eps, x)
    gate, up, hidden = empty((B, len(gate_weight))), empty((B, F)), empty((B, F))
    blocks = count_blocks(up_weight)
    for unsigned in prange((blocks + STRETCH - 1) // STRETCH):
        begin = np.int64(unsigned) * STRETCH
        stretch = range(begin, min(blocks, begin + STRETCH))
        for is_up in range(0 if is_gated else 1, 2):
            weight, sums = (up_weight, up) if is_up else (gate_weight, gate)
            for block in stretch:
                multiply(rows, weight, block, sums)
        activate(gate, up, gate_bias, up_bias, begin, stretch.stop, activation, x, hidden)

    down = empty((B, len(down_weight)))
    for unsigned in prange(count_blocks(down_weight)):
        multiply(hidden, down_weight, np.int64(unsigned), down)
    add_branch(down, down_bias, output_norm, kind, eps, branch_scale, residual, y)


@exact()
def activate(gate, up, gate_bias, up_bias, begin, end, activation, like, hidden):
    """hidden = act(gate) * up, or act(up) of an empty gate, in the columns of blocks from `begin` on, before `end`.

    gate, up, hidden (B, F)
    """
    B, F = hidden.shape
    is_gated, whole = gate.shape[1] > 0, min(end, F // STREAMS)
    for b in range(B):
        for i in range(STREAMS + 1):
            first = row_of(F, begin, i)
            last = first + whole - begin
            if i == STREAMS:  # what is left over
                first, last = STREAMS * whole, F if end > whole else 0
            columns = slice(first, last)  # of its own, a loop over all of it fills vector registers
            _activate_columns(
                gate[b, columns] if is_gated else gate[b], up[b, columns], gate_bias[columns],
                up_bias[columns], activation, like, hidden[b, columns],
            )  # fmt: skip


@exact()
def _activate_columns(gate, up, gate_bias, up_bias, activation, like, hidden):
    """The same of some columns of a row."""
    n_columns, is_gated = len(hidden), len(gate) > 0
    if activation == IS_SILU:
        for n in range(n_columns):
            g, u = finish(gate, gate_bias, n, like), finish(up, up_bias, n, like)
            hidden[n] = widen(narrow(silu(g) * u, like))
        return

    given, bias = (gate, gate_bias) if is_gated else (up, up_bias)
    if activation == IS_GELU:
        for n in range(n_columns):
            hidden[n] = gelu(finish(given, bias, n, like))
    elif activation == IS_GELU_ERF:
        for n in range(n_columns):
            hidden[n] = gelu_erf(finish(given, bias, n, like))
    else:
        for n in range(n_columns):
            r = relu(finish(given, bias, n, like))
            hidden[n] = r if activation == IS_RELU else r * r
    for n in range(n_columns):
        hidden[n] = widen(narrow(hidden[n], like))
    if is_gated:
        for n in range(n_columns):
            u = finish(up, up_bias, n, like)
            hidden[n] = widen(narrow(hidden[n] * u, like))

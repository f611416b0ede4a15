"""What both halves of a block begin and end with: `xplm.kernels.parts.norms` inside compiled loops.

Rows are float32, in place, rounded as the activations are stored. They are of a few thousand numbers, which one thread
has done before a second has woken up.
"""

import numpy as np

from xplm.kernels.parts.norms import LAYER, RMS, RMS_ONCE
from xplm_numpy.dot import dot, multiply_add
from xplm_numpy.jit import exact, serial
from xplm_numpy.kernels.layer_norm import centre
from xplm_numpy.kernels.rms_norm import inverse_root
from xplm_numpy.narrow import FLOAT32, bits, narrow, widen

KINDS = {RMS: 0, RMS_ONCE: 1, LAYER: 2}
IS_RMS, IS_LAYER = KINDS[RMS], KINDS[LAYER]

NO_NORM = np.empty((1, 0, 0), np.float32)
"""What a kernel is given where a norm is left out."""


def norm_bits(norm, kind):
    """A norm for a kernel: float32 weights (1, n, W), and where it rounds once biases too, (2, n, W)."""
    if norm is None:
        return NO_NORM
    wide, W = norm.astype(FLOAT32, copy=False), norm.shape[-1]
    if kind == RMS:
        return bits(wide.reshape(1, -1, W))
    pair = wide if kind == LAYER else np.stack([wide, np.zeros_like(wide)])
    return bits(pair.reshape(2, -1, W))


@serial()
def normalise(numbers, norm, kind, eps, like):
    """Rows of W numbers normalised in place, of a dense array (B, R W); row r by the norm's weight r mod n."""
    n, W = norm.shape[1:]
    if n == 0:
        return
    rows = numbers.reshape(numbers.size // W, W)
    for r in range(len(rows)):
        if kind == IS_RMS:
            _normalise_row(rows[r], norm[0, r % n], eps, like)
        else:
            _normalise_row_once(rows[r], norm[0, r % n], norm[1, r % n], kind, eps, like)


@exact()
def _normalise_row(row, weight, eps, like):
    W = len(row)
    rstd = inverse_root(dot(row, 0, row, 0, W) / np.float32(W) + eps)

    for c in range(W):
        n = widen(narrow(row[c] * rstd, like))
        row[c] = widen(narrow(n * widen(narrow(weight[c], like)), like))


@exact()
def _normalise_row_once(row, weight, bias, kind, eps, like):
    W = len(row)
    if kind == IS_LAYER:
        centre(row)
    rstd = inverse_root(dot(row, 0, row, 0, W) / np.float32(W) + eps)
    if kind == IS_LAYER:
        for c in range(W):
            row[c] = widen(narrow(multiply_add(row[c] * rstd, weight[c], bias[c]), like))
    else:
        for c in range(W):
            row[c] = widen(narrow(row[c] * rstd * weight[c], like))


@exact()
def finish_rows(sums, bias, like):
    """Products (B, N) with their bias, in place, rounded as the array `like` stores them.

    As `finish`, by loops over whole rows, which fill vector registers.
    """
    B, N = sums.shape
    for b in range(B):
        if len(bias) > 0:
            for n in range(N):
                sums[b, n] += widen(bias[n])
        for n in range(N):
            sums[b, n] = widen(narrow(sums[b, n], like))


@exact()
def add_branch(sums, bias, norm, kind, eps, branch_scale, residual, y):
    """y = residual + branch_scale norm(sums + bias).   sums (B, C), overwritten; residual, y (B, 1, C)"""
    B, C = sums.shape
    finish_rows(sums, bias, y)
    normalise(sums, norm, kind, eps, y)
    for b in range(B):
        for c in range(C):
            branch = widen(narrow(branch_scale * sums[b, c], y))
            y[b, 0, c] = narrow(widen(residual[b, 0, c]) + branch, y)

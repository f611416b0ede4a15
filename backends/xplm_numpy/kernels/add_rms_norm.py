"""A residual addition and the norm of its sum, fused. Derivation and signatures: `xplm.kernels.fusions.add_rms_norm`.

A block of rows is added and normalised, or back, while it is in cache; in every dtype it is rounded as by the two ops.
Bytes in float32: forward 16 C a row (x and branch in, y and n out), backward 16 C (dy, dn and y in, dx out). FLOPs:
5 C and 11 C.
"""

import numpy as np

from xplm.kernels.fusions import add_rms_norm as portable
from xplm.kernels.rms_norm import RMSNormSaved
from xplm_numpy.kernels.rms_norm import fits, forward, go_back
from xplm_numpy.narrow import alike, bits, in_float32, takes


def add_rms_norm_fwd(x, branch, weight, *, eps, island=None):
    is_whole = alike((x, branch)) and x.shape == branch.shape and fits(weight, x)
    if not (is_whole and takes(x, weight) and in_float32(island)):
        return portable.add_rms_norm_fwd(x, branch, weight, eps=eps, island=island)

    C = x.shape[-1]
    y, n = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    rstd = np.empty((*x.shape[:-1], 1), np.float32)
    scale = bits(weight.astype(x.dtype, copy=False))
    rows = [bits(array).reshape(-1, C) for array in (x, branch, y, n)]
    forward(*rows[:2], scale, np.float32(eps), *rows[2:], rstd.reshape(-1))
    return y, n, RMSNormSaved(y, weight, rstd)


def add_rms_norm_bwd(dy, dn, saved):
    y, weight, rstd = saved
    is_whole = alike((dy, dn, y)) and dy.shape == dn.shape == y.shape and fits(weight, y)
    if not (is_whole and takes(y, weight)) or rstd.dtype != np.float32:
        return portable.add_rms_norm_bwd(dy, dn, saved)
    return go_back(dy, dn, saved)

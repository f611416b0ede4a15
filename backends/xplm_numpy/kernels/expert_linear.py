"""A linear map of each expert's rows, each by the fused linear map. Derivation: `xplm.kernels.expert_linear`.

The weights of an expert with rows are read once, 2 N C bytes or 4 N C, and no others: one token that chooses k of E
experts reads k / E of the layer.
"""

import numpy as np

from xplm.kernels import expert_linear as portable
from xplm.kernels.expert_linear import ExpertLinearSaved, rows_of_experts
from xplm.kernels.linear import LinearSaved
from xplm_numpy.kernels.linear import linear_bwd, linear_fwd
from xplm_numpy.narrow import FLOAT32, dense, takes


def expert_linear_fwd(x, weight, bias=None, *, counts):
    if not takes(x, weight, bias):
        return portable.expert_linear_fwd(x, weight, bias, counts=counts)
    y = np.empty((len(x), weight.shape[1]), x.dtype)
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

"""Router: which experts a token takes, and the weight of each.

    scores   p = softmax(logits), over all experts           or p = sigmoid(logits), each by itself
    chosen   the k experts with the best p + correction      in the best groups of experts, where there are groups
    weights  w_j = factor * p_j                              or factor * p_j / (sum_i p_i), over the chosen i

Softmax scores divided by their sum are the softmax of the chosen logits alone. The correction chooses and is in no
weight. Of equal scores the lowest index wins. Softmax keeps the order of logits, so that choice reads these.

Gradient. The choice is piecewise constant: the correction has no gradient, and neither have scores that are not chosen,
but for what softmax shares among all. With r_j = p_j / S, S = sum over the chosen,

    dp_j      = factor * dw_j                                     or factor * (dw_j - sum_i dw_i r_i) / S
    dlogits_e = p_e * (dp_e - sum_i dp_i p_i)                     or p_e * (1 - p_e) * dp_e

where dp is 0 for experts that are not chosen. With one expert chosen and weights divided by their sum, w = factor
whatever the logits are: the router has no gradient, and only a load-balancing loss trains it.

Source: Shazeer et al., "Outrageously large neural networks", arXiv:1701.06538, section 2.1; Jiang et al., "Mixtral of
Experts", arXiv:2401.04088, section 2.1; DeepSeek-AI, "DeepSeek-V3", arXiv:2412.19437, section 2.1.2.

Numerics. Runs in the dtype `island`, the backward pass in float32 at least. SMALLEST keeps a sum of sigmoids that all
underflow from being divided by, and changes no other.
"""

from typing import NamedTuple

from array_api_compat import device

from xplm.kernels.softmax import softmax_fwd
from xplm.kernels.swiglu import sigmoid
from xplm.namespace import array_namespace
from xplm.precision import cast, wide_dtype
from xplm.typing import Array, DType

SMALLEST = 1e-20


class RouterSaved(NamedTuple):
    p: Array  # scores (N, E), island
    chosen: Array  # (N, k), integer
    dtype: DType  # of the logits
    scores: str
    is_normalised: bool
    factor: float


def router_fwd(
    logits: Array,
    chosen: Array,
    *,
    scores: str,
    is_normalised: bool,
    factor: float,
    island: DType | None = None,
) -> tuple[Array, RouterSaved]:
    """Weights of the chosen experts.   logits (N, E); chosen (N, k) integer  ->  w (N, k) logits.dtype"""
    xp = array_namespace(logits)
    island = island or wide_dtype(logits, xp)

    z = cast(logits, island)
    p = softmax_fwd(z, island=island)[0] if scores == "softmax" else sigmoid(z)
    w = xp.take_along_axis(p, chosen, axis=1)
    if is_normalised:
        w = w / (xp.sum(w, axis=1, keepdims=True, dtype=island) + SMALLEST)

    w = cast(factor * w, logits.dtype)
    return w, RouterSaved(p, chosen, logits.dtype, scores, is_normalised, factor)


def router_bwd(dw: Array, saved: RouterSaved) -> tuple[Array, None]:
    """dlogits (N, E) in their dtype, from dw (N, k); the choice has no gradient."""
    xp = array_namespace(dw)
    wide = wide_dtype(saved.p, xp)
    p, dww = cast(saved.p, wide), cast(dw, wide)

    # w = factor * p over the chosen, or divided by its sum S
    dchosen = saved.factor * dww
    if saved.is_normalised:
        of_chosen = xp.take_along_axis(p, saved.chosen, axis=1)
        total = xp.sum(of_chosen, axis=1, keepdims=True) + SMALLEST
        r = of_chosen / total
        dchosen = (dchosen - xp.sum(dchosen * r, axis=1, keepdims=True)) / total
    experts = xp.arange(p.shape[1], dtype=saved.chosen.dtype, device=device(p))
    is_chosen = saved.chosen[:, :, None] == experts  # (N, k, E)
    dp = xp.sum(
        xp.where(is_chosen, dchosen[:, :, None], xp.zeros_like(dchosen[:, :, None])), axis=1
    )

    # p = softmax(logits), or sigmoid(logits)
    is_softmax = saved.scores == "softmax"
    slope = dp - xp.sum(dp * p, axis=1, keepdims=True) if is_softmax else (1.0 - p) * dp
    return cast(p * slope, saved.dtype), None


def choose_experts(
    logits: Array,
    correction: Array | None = None,
    *,
    k: int,
    scores: str,
    num_groups: int = 1,
    kept_groups: int = 1,
    group_score: str = "best",
) -> Array:
    """The chosen experts, best first.   logits (N, E); correction (E,)  ->  chosen (N, k) integer"""
    xp = array_namespace(logits)
    N, E = logits.shape

    s = cast(logits, wide_dtype(logits, xp))
    if scores == "sigmoid":
        s = sigmoid(s)
    if correction is not None:
        s = s + cast(correction, s.dtype)
    if kept_groups < num_groups:
        groups = xp.reshape(s, (N, num_groups, -1))
        best = xp.sort(groups, axis=2)[:, :, -2 if group_score == "best two" else -1 :]
        order = _best_first(xp.sum(best, axis=2))
        kept = xp.sort(order[:, :kept_groups], axis=1)  # (N, kept groups)
        members = xp.arange(E // num_groups, dtype=kept.dtype, device=device(s))
        candidates = kept[:, :, None] * members.shape[0] + members
        candidates = xp.reshape(candidates, (N, -1))  # experts of kept groups, ascending
        places = _best_first(xp.take_along_axis(s, candidates, axis=1))[:, :k]
        return xp.take_along_axis(candidates, places, axis=1)
    return _best_first(s)[:, :k]


def _best_first(s: Array) -> Array:
    """Indices along the last axis, the largest number's first, of equal ones the lowest."""
    return array_namespace(s).argsort(-s, axis=-1, stable=True)

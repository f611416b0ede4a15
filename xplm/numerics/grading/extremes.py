"""Numbers so large that exp of them overflows: a forward and a backward that are right must stay finite there.

    softmax(x) = softmax(x - max(x))          exp(1000) is infinite, exp(x - max(x)) is at most 1
    sigmoid(x) = 1 / (1 + exp(-x))            exp(1000) / (1 + exp(1000)) is NaN

All scores of a row are near 1000, or near -1000, or the rows take turns: the right result is as well conditioned there
as near 0.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np

from xplm.numerics.grading.accuracy import FORWARD_LIMIT, MATCH, relative_difference
from xplm.numerics.grading.attempt import Attempt
from xplm.numerics.grading.judging import Judgement
from xplm.numerics.grading.raised import SubmissionError
from xplm.numerics.mistakes.chain import run_forward
from xplm.numerics.op_cases import OpCase

LARGE = 1000.0
"""exp overflows above 709.8 in float64, and above 88.7 in float32."""

SOFTMAX = "exp overflows; subtract each row's maximum before exp, which leaves softmax as it is"
SIGMOID = "exp overflows; write sigmoid as 1 / (1 + exp(-x))"


def find_overflow(attempt: Attempt, judgement: Judgement, *, runs_back: bool) -> str:
    """Find NaN and infinity at large numbers, for a forward that is the op elsewhere.

    Args:
        attempt: the file and its op.
        judgement: of its forward.
        runs_back: its backward runs elsewhere.

    Returns:
        A sentence; "" where all is well, or the op has no exp in it.
    """
    if attempt.op not in _LARGER:
        return ""
    enlarge, reason = _LARGER[attempt.op]
    ways: dict[str, Callable[[Arrays, float], None]] = {
        f"near {size:g}": partial(enlarge, size=size) for size in (LARGE, -LARGE)
    }
    if enlarge is _shift_x and reason == SOFTMAX:
        ways["near 1000 in one row and near -1000 in the next"] = _part_rows
    for where, change in ways.items():
        for case in judgement.cases:
            large = _enlarged(attempt, case, change)
            try:
                fault = _fault(attempt, judgement, large, runs_back=runs_back)
            except SubmissionError as error:
                fault = str(error)
            if fault:
                what = "scores" if reason == SOFTMAX else "inputs"
                return f"{fault} where {what} are {where}: {reason}"
    return ""


def _fault(attempt: Attempt, judgement: Judgement, case: OpCase, *, runs_back: bool) -> str:
    """The fault in a case of large numbers, or ""."""
    chain, setup = attempt.chain, judgement.setup
    y, _ = attempt.forward(case, setup)
    if not np.isfinite(y.astype(np.float64)).all():
        return "forward gives NaN or infinity"
    right = np.asarray(run_forward(chain, attempt.values(case, setup.form)).y)
    expected = setup.layout.their_y(chain, right, case)
    is_exact = (
        not judgement.narrow and judgement.error <= FORWARD_LIMIT
    )  # else the rounding of 1000 shows
    if is_exact and relative_difference(y.astype(np.float64), expected) > MATCH:
        return "forward is wrong"
    if not runs_back:
        return ""
    found = attempt.backward(case, setup, np.ones(y.shape))
    finite = (np.isfinite(g.astype(np.float64)).all() for g in found.values() if g is not None)
    return "" if all(finite) else "backward gives NaN or infinity"


Arrays = dict[str, np.ndarray]


class Enlarge(Protocol):
    """Makes the scores of a case large, in place; `width` is what products are divided by before exp."""

    def __call__(self, arrays: Arrays, width: float, size: float) -> None:
        """Make the scores near `size`."""
        ...


def _enlarged(attempt: Attempt, case: OpCase, change: Callable[[Arrays, float], None]) -> OpCase:
    """The case with large scores."""
    arrays = {
        arg: array.copy()
        for arg, array in zip(attempt.chain.arguments, case.args, strict=False)
        if array is not None
    }
    width = 1.0
    if attempt.op == "attention":
        width = 1.0 / case.options["scale"]
    elif attempt.op == "self_attention":
        width = float(np.sqrt(arrays["wq"].shape[0] // case.options["n_heads"]))
    change(arrays, width)
    return OpCase(case.label, tuple(arrays.values()), case.options)


def _shift_x(arrays: Arrays, width: float, size: float) -> None:
    arrays["x"] += size


def _shift_gate(arrays: Arrays, width: float, size: float) -> None:
    arrays["gate"] += size


def _shift_logits(arrays: Arrays, width: float, size: float) -> None:
    arrays["logits"] += size


def _part_rows(arrays: Arrays, width: float) -> None:
    """Rows so far apart that the maximum of the whole array makes exp of a row 0."""
    rows = arrays["x"].reshape(-1, arrays["x"].shape[-1])  # a view: the array is a fresh copy
    rows[::2] += LARGE
    rows[1::2] -= LARGE


def _through(x: str, weight: str) -> Enlarge:
    """Through a product x @ weight^T, whose first feature is then 1 * size."""

    def enlarge(arrays: Arrays, width: float, size: float) -> None:
        arrays[x][..., 0] = 1.0
        arrays[weight][..., 0] = size * width

    return enlarge


def _tied(arrays: Arrays, width: float, size: float) -> None:
    arrays["weight"][:, 0] = np.sqrt(abs(size))


def _projected(arrays: Arrays, width: float, size: float) -> None:
    """Of q and k, which come of x, the first feature is 1 and `size`."""
    arrays["x"][..., 0] = 1.0
    for name, value in (("wq", 1.0), ("wk", size * width)):
        arrays[name][0, :] = 0.0
        arrays[name][0, 0] = value


_LARGER: dict[str, tuple[Enlarge, str]] = {
    "softmax": (_shift_x, SOFTMAX),
    "cross_entropy": (_shift_x, SOFTMAX),
    "mean_cross_entropy": (_shift_x, SOFTMAX),
    "linear_cross_entropy": (_through("x", "weight"), SOFTMAX),
    "tied_embedding": (_tied, SOFTMAX),
    "attention": (_through("q", "k"), SOFTMAX),
    "self_attention": (_projected, SOFTMAX),
    "swiglu": (_shift_gate, SIGMOID),
    "gelu": (_shift_x, SIGMOID),
    "clamped_swiglu": (_shift_gate, SIGMOID),
    "sigmoid_gate": (_shift_gate, SIGMOID),
    "router": (_shift_logits, SOFTMAX),
    "mlp": (_through("x", "gate"), SIGMOID),
}
"""By op: how a case's scores become large, and why they overflow."""

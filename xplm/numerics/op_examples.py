"""One small example an op, with numbers to follow by hand: a mean of 2, a root of 25, halves and quarters."""

import math

import numpy as np

from xplm.numerics.op_cases import IGNORE, OpCase

LOG_2, LOG_3, LOG_5 = math.log(2.0), math.log(3.0), math.log(5.0)


def _floats(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float64)


EXAMPLES: dict[str, tuple[OpCase, np.ndarray]] = {
    "embedding": (
        OpCase(
            "id 2 occurs twice, id 1 never",
            (np.array([2, 0, 2]), _floats([1, 2], [3, 4], [5, 6])),
        ),
        _floats([1, 1], [10, 10], [100, 100]),
    ),
    "linear": (
        OpCase(
            "two rows, two features in, three out",
            (
                _floats([1, 2], [3, 4]),
                _floats([1, 0], [0, 1], [1, 1]),
                np.array([0.5, 0.0, -1.0]),
            ),
        ),
        _floats([1, 0, 2], [0, 1, 1]),
    ),
    "rms_norm": (
        OpCase(
            "rms(2, -2) = 2, and rms(1, 7) = 5",
            (_floats([2, -2], [1, 7]), np.array([1.0, 3.0])),
            {"eps": 0.0},
        ),
        _floats([1, 0], [0, 1]),
    ),
    "layer_norm": (
        OpCase(
            "both rows have mean 2; their standard deviations are 1 and 2",
            (
                _floats([3, 1, 3, 1], [0, 4, 4, 0]),
                np.array([1.0, 2.0, 1.0, 1.0]),
                np.array([0.0, 0.0, 0.0, 1.0]),
            ),
            {"eps": 0.0},
        ),
        _floats([1, 0, 0, 0], [0, 1, 0, 0]),
    ),
    "rope": (
        OpCase(
            "one pair at three positions, a quarter turn each",
            (
                _floats([1, 2], [1, 2], [1, 2])[None, None],
                _floats([1], [0], [-1])[None, None],
                _floats([0], [1], [0])[None, None],
            ),
        ),
        _floats([1, 0], [1, 0], [1, 0])[None, None],
    ),
    "softmax": (
        OpCase("exp(x) is 1, 2 and 5", (_floats([0.0, LOG_2, LOG_5]),)),
        _floats([8, 0, 0]),
    ),
    "attention": (
        OpCase(
            "two query heads share one key head; the last query weighs its keys 1 to 3, then 1 to 9",
            (
                _floats([1, 1], [0, 2])[None, :, :, None],
                _floats([0.0, LOG_3])[None, :, :, None],
                _floats([4, 8])[None, :, :, None],
            ),
            {"start": 0, "scale": 1.0},
        ),
        _floats([1, 1], [1, 1])[None, :, :, None],
    ),
    "swiglu": (
        OpCase(
            "sigmoid(0) = 1/2, and sigmoid(log 3) = 3/4",
            (_floats([0.0, LOG_3, -LOG_3]), _floats([2, 4, 4])),
        ),
        _floats([1, 1, 1]),
    ),
    "gelu": (
        OpCase("it bends between -1 and 1", (_floats([-1, 0, 1, 2]),)),
        _floats([1, 1, 1, 1]),
    ),
    "gelu_erf": (
        OpCase("the normal shares below -1, 0, 1 and 2", (_floats([-1, 0, 1, 2]),)),
        _floats([1, 1, 1, 1]),
    ),
    "relu": (
        OpCase("half are below zero", (_floats([-2, -1, 1, 2]),)),
        _floats([1, 10, 100, 1000]),
    ),
    "relu2": (
        OpCase("half are below zero", (_floats([-2, -1, 1, 2]),)),
        _floats([1, 10, 100, 1000]),
    ),
    "clamped_swiglu": (
        OpCase(
            "log 3 gives 3/4 of itself; 9 becomes 2, whose gradient ends there",
            (_floats([0.0, LOG_3, LOG_3]), _floats([2, 1, 9])),
            {"alpha": 1.0, "limit": 2.0},
        ),
        _floats([1, 1, 1]),
    ),
    "sigmoid_gate": (
        OpCase(
            "sigmoid(0) = 1/2, and sigmoid(log 3) = 3/4, for a row of two each",
            (_floats([0.0], [LOG_3]), _floats([2, 4], [4, 8])),
        ),
        _floats([1, 1], [1, 1]),
    ),
    "router": (
        OpCase(
            "scores are 1/8, 1/4 and 5/8; the last two are chosen, and divided by 7/8",
            (_floats([0.0, LOG_2, LOG_5]), np.array([[2, 1]])),
            {"scores": "softmax", "is_normalised": True, "factor": 1.0},
        ),
        _floats([7, 0]),
    ),
    "expert_linear": (
        OpCase(
            "two rows for expert 0, none for 1, one for 2",
            (
                _floats([1, 2], [3, 4], [5, 6]),
                np.array([[[1.0, 0.0]], [[7.0, 7.0]], [[1.0, 1.0]]]),
            ),
            {"counts": (2, 0, 1)},
        ),
        _floats([1], [10], [100]),
    ),
    "expert_sum": (
        OpCase(
            "a token's rows are 2 and 0, the other's 1 and 3",
            (
                _floats([1, 2], [3, 4], [5, 6], [7, 8]),
                np.array([[2, 0], [1, 3]]),
                _floats([0.5, 0.5], [0.25, 0.75]),
            ),
        ),
        _floats([1, 0], [0, 1]),
    ),
    "dropout": (
        OpCase(
            "half are left out, and the rest doubled",
            (_floats([1, 2, 3, 4]), np.array([[True, False, False, True]])),
            {"rate": 0.5},
        ),
        _floats([1, 1, 1, 1]),
    ),
    "cross_entropy": (
        OpCase(
            "p is 1/8, 1/4 and 5/8; the second row is not scored",
            (
                _floats([0.0, LOG_2, LOG_5], [0.0, LOG_2, LOG_5]),
                np.array([1, IGNORE]),
            ),
            {"ignore_index": IGNORE},
        ),
        np.array([1.0, 1.0]),
    ),
    "linear_cross_entropy": (
        OpCase(
            "the logits are 0, log 2 and log 5",
            (
                _floats([1, 0]),
                _floats([0.0, 1.0], [LOG_2, 0.0], [LOG_5, 1.0]),
                np.array([1]),
            ),
            {"ignore_index": IGNORE},
        ),
        np.array([1.0]),
    ),
}
"""By op: the example, and the dy that comes in."""

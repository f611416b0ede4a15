"""relu, relu2 and the exact gelu: masks that are lost, and product rules that lose a term."""

import math

import numpy as np

from xplm.numerics.mistakes.chain import Chain, Form, Values, mistake

_erf = np.vectorize(math.erf, otypes=[float])


def _tanh_of(x: np.ndarray) -> np.ndarray:
    return np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def _tanh_slope(e: Values) -> np.ndarray:
    t = _tanh_of(e.x)
    du = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * e.x**2)
    return 0.5 * (1 + t) + 0.5 * e.x * (1 - t**2) * du


GELU_ERF = Chain(
    arguments=("x",),
    gradients=("x",),
    forward={
        "approximate": lambda e: getattr(e, "approximate", False),
        "share": lambda e: (
            0.5 * (1 + (_tanh_of(e.x) if e.approximate else _erf(e.x / math.sqrt(2))))
        ),
        "y": lambda e: e.x * e.share,
    },
    backward={
        "density": lambda e: np.exp(-(e.x**2) / 2) / math.sqrt(2 * math.pi),
        "slope": lambda e: _tanh_slope(e) if e.approximate else e.share + e.x * e.density,
        "dx": lambda e: e.dy * e.slope,
    },
    mistakes=(
        mistake(
            "dx lacks the product rule's second term: x phi(x)",
            slope=lambda e: e.share,
        ),
        mistake(
            "dx lacks the product rule's first term: Phi(x)",
            slope=lambda e: e.x * e.density,
        ),
        mistake(
            "the second term lacks its x: x phi(x)",
            slope=lambda e: e.share + e.density,
        ),
        mistake(
            "the density lacks its 1/2: exp(-x^2 / 2) / sqrt(2 pi)",
            density=lambda e: np.exp(-(e.x**2)) / math.sqrt(2 * math.pi),
        ),
        mistake(
            "the density lacks its factor 1/sqrt(2 pi)",
            density=lambda e: np.exp(-(e.x**2) / 2),
        ),
        mistake(
            "the derivative of erf(x / sqrt(2)) lacks the 1/sqrt(2) of the chain rule",
            density=lambda e: np.exp(-(e.x**2) / 2) / math.sqrt(math.pi),
        ),
        mistake(
            "dx is the derivative of the tanh form; the forward is exact",
            slope=_tanh_slope,
        ),
        mistake("dx is ReLU's: dy where x > 0", slope=lambda e: (e.x > 0).astype(float)),
        mistake("dx is dy times y; the derivative of y belongs", slope=lambda e: e.y),
    ),
    forward_mistakes=(
        mistake("the 1/2 is missing", y=lambda e: 2 * e.x * e.share),
        mistake(
            "erf is taken at x; x / sqrt(2) belongs",
            share=lambda e: 0.5 * (1 + _erf(e.x)),
        ),
        mistake(
            "it is x * sigmoid(1.702 x), a cruder approximation",
            y=lambda e: e.x / (1 + np.exp(-1.702 * e.x)),
        ),
        mistake("it is ReLU", y=lambda e: np.maximum(e.x, 0)),
    ),
    forms=(Form("in the tanh form", {"approximate": True}),),
    positions={"x": 1},
    words={"density": "the density, exp(-x^2 / 2) / sqrt(2 pi),"},
)

RELU = Chain(
    arguments=("x",),
    gradients=("x",),
    forward={"y": lambda e: np.maximum(e.x, 0)},
    backward={"dx": lambda e: e.dy * (e.x > 0)},
    mistakes=(
        mistake("dx is not masked: it is 0 where x < 0", dx=lambda e: e.dy),
        mistake("the mask is inverted: dx passes where x > 0", dx=lambda e: e.dy * (e.x < 0)),
        mistake("the mask is that of dy > 0; x > 0 belongs", dx=lambda e: np.maximum(e.dy, 0)),
        mistake("dx is dy times y; 1 belongs where x > 0", dx=lambda e: e.dy * e.y),
        mistake("dx is dy times x; 1 belongs where x > 0", dx=lambda e: e.dy * e.x),
    ),
    forward_mistakes=(
        mistake("it is the absolute value", y=lambda e: np.abs(e.x)),
        mistake("it is leaky: what is below 0 becomes 0", y=lambda e: np.maximum(e.x, 0.01 * e.x)),
        mistake("it is capped at 6", y=lambda e: np.clip(e.x, 0, 6)),
        mistake("it keeps what is below 0", y=lambda e: np.minimum(e.x, 0)),
    ),
    positions={"x": 1},
)

RELU2 = Chain(
    arguments=("x",),
    gradients=("x",),
    forward={"r": lambda e: np.maximum(e.x, 0), "y": lambda e: e.r**2},
    backward={"slope": lambda e: 2 * e.r, "dx": lambda e: e.dy * e.slope},
    mistakes=(
        mistake("dx lacks the 2 of the square's derivative", slope=lambda e: e.r),
        mistake("dx is not masked: it is 0 where x < 0", slope=lambda e: 2 * e.x),
        mistake("dx lacks the square's derivative, 2 r", slope=lambda e: (e.x > 0).astype(float)),
        mistake("the square's derivative is 2 r, not 2", slope=lambda e: 2.0 * (e.x > 0)),
        mistake("dx is dy times y; 2 r belongs", slope=lambda e: e.y),
        mistake("dx is dy times 2 y; 2 r belongs", slope=lambda e: 2 * e.y),
    ),
    forward_mistakes=(
        mistake("it squares what is below 0, too", y=lambda e: e.x**2),
        mistake("it is ReLU: the square is missing", y=lambda e: e.r),
        mistake("it is x |x|: what is below 0 becomes 0", y=lambda e: e.x * np.abs(e.x)),
    ),
    positions={"x": 1},
)

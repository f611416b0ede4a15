"""gelu, swiglu and dropout: product rules that lose a term, and masks that go one way only."""

import math

import numpy as np

from xplm.numerics.mistakes.chain import Chain, Form, Values, mistake

ROOT = math.sqrt(2 / math.pi)
CUBIC = 0.044715
_erf = np.vectorize(math.erf, otypes=[float])


def _gelu(e: Values) -> np.ndarray:
    if e.exact:
        return 0.5 * e.x * (1 + _erf(e.x / math.sqrt(2)))
    return 0.5 * e.x * (1 + np.tanh(e.u))


def _density(x: np.ndarray) -> np.ndarray:
    return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def _exact_slope(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + _erf(x / math.sqrt(2))) + x * _density(x)


GELU = Chain(
    arguments=("x",),
    gradients=("x",),
    forward={
        "exact": lambda e: getattr(e, "exact", False),
        "u": lambda e: ROOT * (e.x + CUBIC * e.x**3),
        "y": _gelu,
    },
    backward={
        "t": lambda e: np.tanh(e.u),
        "dt": lambda e: 1 - e.t**2,
        "du": lambda e: ROOT * (1 + 3 * CUBIC * e.x**2),
        "slope": lambda e: (
            _exact_slope(e.x) if e.exact else 0.5 * (1 + e.t) + 0.5 * e.x * e.dt * e.du
        ),
        "dx": lambda e: e.dy * e.slope,
    },
    mistakes=(
        mistake(
            "dx lacks the product rule's second term: x/2 * (1 - tanh(u)^2) * du/dx",
            slope=lambda e: 0.5 * (1 + e.t),
        ),
        mistake(
            "dx lacks the product rule's first term: 1/2 * (1 + tanh(u))",
            slope=lambda e: 0.5 * e.x * e.dt * e.du,
        ),
        mistake(
            "du/dx lacks the 3 of the cubic: sqrt(2/pi) * (1 + 3 * 0.044715 x^2)",
            du=lambda e: ROOT * (1 + CUBIC * e.x**2),
        ),
        mistake(
            "du/dx lacks the cubic's term: sqrt(2/pi) * (1 + 3 * 0.044715 x^2)",
            du=lambda e: ROOT,
        ),
        mistake("du/dx lacks its factor sqrt(2/pi)", du=lambda e: 1 + 3 * CUBIC * e.x**2),
        mistake("du/dx is missing from the chain rule", du=lambda e: 1.0),
        mistake("the derivative of tanh is 1 - tanh^2, not 1 - tanh", dt=lambda e: 1 - e.t),
        mistake(
            "the second term lacks its x: x/2 * (1 - tanh(u)^2) * du/dx",
            slope=lambda e: 0.5 * (1 + e.t) + 0.5 * e.dt * e.du,
        ),
        mistake(
            "the second term lacks its 1/2: x/2 * (1 - tanh(u)^2) * du/dx",
            slope=lambda e: 0.5 * (1 + e.t) + e.x * e.dt * e.du,
        ),
        mistake(
            "dx is the derivative of the exact GELU (erf); the forward is the tanh form",
            slope=lambda e: _exact_slope(e.x),
        ),
        mistake("dx is ReLU's: dy where x > 0", slope=lambda e: (e.x > 0).astype(float)),
        mistake("dx is dy times y; the derivative of y belongs", slope=lambda e: e.y),
    ),
    forward_mistakes=(
        mistake("the cubic term is missing", u=lambda e: ROOT * e.x),
        mistake("u lacks its factor sqrt(2/pi)", u=lambda e: e.x + CUBIC * e.x**3),
        mistake("the 1/2 is missing", y=lambda e: e.x * (1 + np.tanh(e.u))),
        mistake(
            "it is x * sigmoid(1.702 x), a cruder approximation",
            y=lambda e: e.x / (1 + np.exp(-1.702 * e.x)),
        ),
        mistake("it is ReLU", y=lambda e: np.maximum(e.x, 0)),
    ),
    forms=(Form("in the exact form, with erf", {"exact": True}),),
    positions={"x": 1},
    words={"dt": "the derivative of tanh, 1 - tanh(u)^2,", "du": "du/dx"},
)

SWIGLU = Chain(
    arguments=("gate", "up"),
    gradients=("gate", "up"),
    forward={
        "s": lambda e: 1 / (1 + np.exp(-e.gate)),
        "y": lambda e: e.gate * e.s * e.up,
    },
    backward={
        "slope": lambda e: e.s * (1 + e.gate * (1 - e.s)),
        "dgate": lambda e: e.dy * e.up * e.slope,
        "dup": lambda e: e.dy * e.gate * e.s,
    },
    mistakes=(
        mistake(
            "silu' is not sigmoid': silu'(g) = s + g s (1 - s)",
            slope=lambda e: e.s * (1 - e.s),
        ),
        mistake(
            "silu' lacks the derivative of its sigmoid: silu'(g) = s + g s (1 - s)",
            slope=lambda e: e.s,
        ),
        mistake(
            "silu' lacks its first term: silu'(g) = s + g s (1 - s)",
            slope=lambda e: e.gate * e.s * (1 - e.s),
        ),
        mistake(
            "silu' lacks the g of its second term: silu'(g) = s + g s (1 - s)",
            slope=lambda e: e.s + e.s * (1 - e.s),
        ),
        mistake(
            "the second term of silu' has the wrong sign: silu'(g) = s + g s (1 - s)",
            slope=lambda e: e.s - e.gate * e.s * (1 - e.s),
        ),
        mistake(
            "silu' lacks the s of its second term: silu'(g) = s + g s (1 - s)",
            slope=lambda e: e.s + e.gate * (1 - e.s),
        ),
        mistake(
            "silu' is taken at silu(g) where g belongs: silu'(g) = s + g s (1 - s)",
            slope=lambda e: e.s * (1 + e.gate * e.s * (1 - e.s)),
        ),
        mistake("dgate is not multiplied by up", dgate=lambda e: e.dy * e.slope),
        mistake(
            "dgate is multiplied by silu(gate) where up belongs",
            dgate=lambda e: e.dy * e.gate * e.s * e.slope,
        ),
        mistake("dgate stops at silu: silu' is missing", dgate=lambda e: e.dy * e.up),
        mistake("dup has sigmoid(gate) where silu(gate) belongs", dup=lambda e: e.dy * e.s),
        mistake("dup has gate where silu(gate) belongs", dup=lambda e: e.dy * e.gate),
        mistake("dup has silu'(gate) where silu(gate) belongs", dup=lambda e: e.dy * e.slope),
        mistake("dup is not multiplied by silu(gate)", dup=lambda e: e.dy),
        mistake("dup is dy times y: divide by up", dup=lambda e: e.dy * e.y),
    ),
    forward_mistakes=(
        mistake(
            "gate and up are swapped: the first argument goes through silu",
            y=lambda e: e.gate * e.up / (1 + np.exp(-e.up)),
        ),
        mistake("it gates by sigmoid(gate), as GLU does", y=lambda e: e.s * e.up),
        mistake("it adds the branches; they multiply", y=lambda e: e.gate * e.s + e.up),
    ),
    positions={"gate": 1, "up": 1},
)

DROPOUT = Chain(
    arguments=("x", "keep"),
    gradients=("x",),
    forward={
        "scale": lambda e: 1 / (1 - e.rate),
        "y": lambda e: e.x * e.keep * e.scale,
    },
    backward={"dx": lambda e: e.dy * e.keep * e.scale},
    mistakes=(
        mistake("dx lacks the 1/(1 - rate) of the forward", dx=lambda e: e.dy * e.keep),
        mistake(
            "dx is not masked: what the forward left out gets no gradient",
            dx=lambda e: e.dy * e.scale,
        ),
        mistake("dx ignores the mask and the scale", dx=lambda e: e.dy),
        mistake(
            "the mask is inverted: dx passes where keep is true",
            dx=lambda e: e.dy * ~e.keep * e.scale,
        ),
        mistake("dx is scaled twice", dx=lambda e: e.dy * e.keep * e.scale**2),
        mistake(
            "dx is multiplied by 1 - rate where it should be divided",
            dx=lambda e: e.dy * e.keep / e.scale,
        ),
        mistake(
            "dx is divided by the rate where 1 - rate belongs",
            dx=lambda e: e.dy * e.keep / e.rate if e.rate else e.dy * e.keep,
        ),
    ),
    forward_mistakes=(
        mistake("the 1/(1 - rate) is missing", y=lambda e: e.x * e.keep),
        mistake("the mask is inverted", y=lambda e: e.x * ~e.keep * e.scale),
        mistake("the mask is not applied", y=lambda e: e.x * e.scale),
        mistake(
            "it is divided by the rate where 1 - rate belongs",
            y=lambda e: e.x * e.keep / (e.rate or 1.0),
        ),
    ),
)

"""The activations of an MLP inside compiled loops: `xplm.specs.ACTIVATIONS`, number by number, in float32."""

import numpy as np

from xplm.kernels.gelu import CUBIC, SCALE
from xplm.kernels.gelu_erf import CENTRE, COEFFICIENTS, FAR, ROOT_HALF, SINGLE
from xplm_numpy.dot import multiply_add
from xplm_numpy.exp import exp
from xplm_numpy.jit import exact

CODES = {"silu": 0, "gelu": 1, "gelu_erf": 2, "relu": 3, "relu2": 4}
IS_SILU, IS_GELU, IS_GELU_ERF, IS_RELU = (
    CODES[name] for name in ("silu", "gelu", "gelu_erf", "relu")
)

SATURATED = np.float32(28.0 * np.log(2.0))
"""Where the sigmoid is 1: exp of it is 2^28 exactly, and so is 1 + 2^28 in float32. LLVM orders the factors of
x exp(x) / (1 + exp(x)) up as it likes; a power of two cancels without a rounding, and this one overflows nowhere near.
"""

TWO_SCALE, CUBE = np.float32(2.0 * SCALE), np.float32(CUBIC)
TERMS = np.array(COEFFICIENTS[:SINGLE], np.float32)
ONE, TWO, HALF = np.float32(1.0), np.float32(2.0), np.float32(0.5)
ZERO = np.float32(0.0)


@exact()
def silu(x):
    """x sigmoid(x)."""
    e = exp(min(x, SATURATED))
    return x * (e / (ONE + e))


@exact()
def gelu(x):
    """x (1 + tanh(u)) / 2, as `xplm.kernels.gelu` has it."""
    return x * share_of_gelu(x)


@exact()
def share_of_gelu(x):
    """(1 + tanh(u)) / 2."""
    e = exp(min(TWO_SCALE * multiply_add(CUBE * x * x, x, x), SATURATED))
    return e / (ONE + e)


@exact()
def gelu_erf(x):
    """x Phi(x)."""
    return x * normal_share(x)


@exact()
def relu(x):
    """max(x, 0); NaN stays NaN."""
    return ZERO if x < ZERO else x


@exact()
def normal_share(x):
    """Phi(x), as `xplm.kernels.gelu_erf` has it."""
    t = min(abs(x) * np.float32(ROOT_HALF), np.float32(FAR))
    s = (t - np.float32(CENTRE)) / (t + np.float32(CENTRE))
    b1 = b2 = ZERO
    for k in range(SINGLE - 1, 0, -1):
        b1, b2 = TWO * s * b1 - b2 + TERMS[k], b1
    series = s * b1 - b2 + TERMS[0]
    tail = HALF * exp(-t * t) * series / (ONE + TWO * t)
    return tail if x < ZERO else ONE - tail

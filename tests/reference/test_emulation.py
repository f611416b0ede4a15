"""torch as the oracle of bfloat16, and other libraries as places to round in."""

import warnings
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from xplm.backend import load_backend
from xplm.emulation import emulate
from xplm.formats import FORMATS, round_to
from xplm.precision import Policy

FLUSHED = 2.0**-126
"""JAX on a CPU takes what is smaller for zero."""


def floats(seed, n):
    """Patterns of float32, of which a hundredth is subnormal."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, n, dtype=np.uint32)
    tiny = rng.integers(0, 2**23, n // 100, dtype=np.uint32)
    return np.concatenate([bits, tiny]).view(np.float32)


def test_an_emulated_product_is_torchs_to_within_a_unit_in_the_last_place(torch):
    # Products are exact in float32, and so both round 511 additions, in orders of their own, and then once to
    # bfloat16. Sums of k terms are near sqrt(k), and each addition errs by 2^-24 / sqrt(3) of its sum: 1.3e-5 in all
    # for one order, if errors are as good as random, and 1.8e-5 between two. To be more than a step apart, a step of
    # at most 2^-7 |sum| must be below that, hence |sum| < 0.0023: of normal sums of deviation 22.6 there are 8e-5.
    # An entry rounds the other way with the probability 1.8e-5 / step, and few steps are below 0.002.
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((512, 512)).astype(ml_dtypes.bfloat16) for _ in range(2))
    numpy = load_backend("numpy")
    without = {name: dtype for name, dtype in numpy.dtypes.items() if name != "bfloat16"}
    backend = emulate(replace(numpy, dtypes=without), Policy.parse("bf16"))
    ours = backend.to_host(backend.from_host(x) @ backend.from_host(y))
    assert ours.dtype == ml_dtypes.bfloat16

    def to_torch(array):
        return torch.tensor(array.view(np.int16)).view(torch.bfloat16)

    theirs = (to_torch(x) @ to_torch(y)).view(torch.int16).numpy()
    apart = np.abs(ordered(ours.view(np.int16)) - ordered(theirs))
    assert np.mean(apart <= 1) >= 0.9999
    assert np.mean(apart == 0) >= 0.99


def ordered(bits):
    """Integers in the order of the bfloat16 numbers whose patterns are given; neighbours are 1 apart."""
    bits = bits.astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFF), bits)


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("float64", "float32")])
def test_torch_rounds_as_numpy(torch, name):
    x = floats(1, 10**5)
    with np.errstate(all="ignore"):
        expected = round_to(x, FORMATS[name])
    actual = round_to(torch.tensor(x), FORMATS[name]).numpy()
    np.testing.assert_array_equal(actual, expected)
    is_number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(actual[is_number]), np.signbit(expected[is_number]))


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("float64", "float32")])
@pytest.mark.parametrize("compiled", [False, True])
def test_jax_rounds_as_numpy_but_for_subnormals_of_float32(name, compiled):
    jax = pytest.importorskip("jax", reason="needs jax: pip install jax")
    x = floats(2, 10**5)
    with np.errstate(all="ignore"):
        expected = round_to(x, FORMATS[name])
    function = jax.jit(lambda x: round_to(x, FORMATS[name])) if compiled else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of others' code
        array = jax.numpy.asarray(x)
        actual = np.asarray(function(array) if function else round_to(array, FORMATS[name]))
    is_flushed = np.abs(x) < FLUSHED
    assert (actual[is_flushed] == 0).all()
    np.testing.assert_array_equal(actual[~is_flushed], expected[~is_flushed])
    if FORMATS[name].exponent_bits < 8:  # such formats have no number so small
        assert (expected[is_flushed] == 0).all()

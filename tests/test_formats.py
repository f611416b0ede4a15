"""Formats and rounding to them: against ml_dtypes bit for bit, and against arithmetic by hand where it has none."""

import math

import ml_dtypes
import numpy as np
import pytest

from tests.helpers import to_numpy
from xplm.errors import RequestError
from xplm.formats import FORMATS, Format, find_format, format_of_bits, round_to

OF_ML_DTYPES = [name for name in FORMATS if name == "float16" or hasattr(ml_dtypes, name)]
CHUNK = 10**6
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 3.4e38, -3.4e38], np.float32)
EXAMPLES = ["tf32", "e5m7", "e2m1", "e7m16", "e8m22", "e8m3", *OF_ML_DTYPES]


def dtype_of(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def random_floats(seed, n):
    """Every pattern of float32 is as likely as any other: subnormals, infinities and NaN among them."""
    bits = np.random.default_rng(seed).integers(0, 2**32, n, dtype=np.uint32)
    return bits.view(np.float32)


def subnormals(seed, n):
    bits = np.random.default_rng(seed).integers(0, 2**23, n, dtype=np.uint32)
    return (bits | np.uint32(2**31) * (bits % 2)).view(np.float32)


def assert_same_bits(actual, expected):
    """Equal patterns; any NaN equals any other."""
    assert actual.dtype == expected.dtype
    differ = actual.view(np.uint32) != expected.view(np.uint32)
    differ &= ~(np.isnan(actual) & np.isnan(expected))
    assert not differ.any(), (actual[differ][:5], expected[differ][:5])


def assert_rounds_as_ml_dtypes(x, name):
    with np.errstate(
        all="ignore"
    ):  # of patterns that are signalling NaN, and of overflow in the oracle
        assert_same_bits(round_to(x, FORMATS[name]), x.astype(dtype_of(name)).astype(np.float32))


def all_numbers(format):
    """Every finite number >= 0, in order, with the parity of its code."""
    M, low = format.mantissa_bits, format.min_exponent
    numbers = [math.ldexp(k, low - M) for k in range(2**M)]
    for e in range(low, format.max_exponent + 1):
        numbers += [math.ldexp(k, e - M) for k in range(2**M, 2 ** (M + 1))]
    return [number for number in numbers if number <= format.max]


@pytest.mark.parametrize("name", OF_ML_DTYPES)
def test_limits_are_those_of_ml_dtypes(name):
    info, format = ml_dtypes.finfo(dtype_of(name)), FORMATS[name]
    assert format.max == float(info.max)
    assert format.smallest_normal == float(info.smallest_normal)
    assert format.eps == float(info.eps)
    assert (format.exponent_bits, format.mantissa_bits) == (info.nexp, info.nmant)


def test_every_format_of_ml_dtypes_with_a_sign_is_here():
    theirs = {name for name in dir(ml_dtypes) if name.startswith(("float", "bfloat"))}
    assert theirs - {"float8_e8m0fnu"} == set(OF_ML_DTYPES) - {"float16"}


@pytest.mark.parametrize("name", OF_ML_DTYPES)
@pytest.mark.parametrize("source", ["float16", "bfloat16"])
def test_every_pattern_of_16_bits_rounds_as_ml_dtypes(name, source):
    patterns = np.arange(2**16, dtype=np.uint16).view(dtype_of(source))
    assert_rounds_as_ml_dtypes(patterns.astype(np.float32), name)


@pytest.mark.parametrize("name", OF_ML_DTYPES)
def test_ten_million_floats_round_as_ml_dtypes(name):
    for seed in range(9):
        assert_rounds_as_ml_dtypes(random_floats(seed, CHUNK), name)
    assert_rounds_as_ml_dtypes(np.concatenate([subnormals(9, CHUNK), SPECIAL]), name)


@pytest.mark.parametrize("name", OF_ML_DTYPES)
def test_what_lies_beside_a_number_or_a_tie_rounds_as_ml_dtypes(name):
    format = FORMATS[name]
    bits = 1 + format.exponent_bits + format.mantissa_bits
    code = np.uint8 if bits <= 8 else np.uint16
    numbers = np.arange(2**bits, dtype=code).view(dtype_of(name)).astype(np.float32)
    numbers = np.unique(numbers[np.isfinite(numbers)])
    ties = (numbers[1:].astype(np.float64) + numbers[:-1]) / 2.0
    beyond = (
        1.5 * numbers[-1].astype(np.float64) - 0.5 * numbers[-2]
    )  # the tie with what would follow
    for centre in (numbers, ties.astype(np.float32), np.array([beyond, -beyond], np.float32)):
        up = np.nextafter(centre, np.float32(np.inf))
        down = np.nextafter(centre, np.float32(-np.inf))
        assert_rounds_as_ml_dtypes(np.concatenate([centre, up, down]), name)


def test_tf32_is_float32_less_13_bits():
    x = random_floats(3, CHUNK)
    bits = x.view(np.uint32).astype(np.uint64)
    halfway = (bits >> 13 & 1) + np.uint64(2**12 - 1)  # to nearest, ties to even; a carry goes up
    expected = ((bits + halfway) >> 13 << 13).astype(np.uint32).view(np.float32)
    expected = np.where(np.isfinite(x), expected, x)
    with np.errstate(all="ignore"):
        assert_same_bits(round_to(x, FORMATS["tf32"]), expected)


@pytest.mark.parametrize("name", ["e5m7", "e2m1", "e3m2", "e4m8", "float8_e4m3fn"])
def test_bits_of_any_number_round_to_the_nearest_number_there_is(name):
    format = find_format(name)
    numbers = np.array(all_numbers(format))
    assert numbers[-1] == format.max
    rng = np.random.default_rng(4)
    x = np.exp2(rng.uniform(format.min_exponent - 12, format.max_exponent + 1, 20000))
    x = x.astype(np.float32)[x < format.max]
    above = np.searchsorted(numbers, x)
    gap_up, gap_down = numbers[above] - x, x - numbers[above - 1]
    is_even = above % 2 == 0  # codes are counted from 0
    is_up = (gap_up < gap_down) | ((gap_up == gap_down) & is_even)
    expected = np.where(is_up, numbers[above], numbers[above - 1]).astype(np.float32)
    assert_same_bits(round_to(x, format), expected)
    assert_same_bits(round_to(-x, format), -expected)


@pytest.mark.parametrize("name", EXAMPLES)
def test_rounding_twice_is_rounding_once(name):
    format = find_format(name)
    with np.errstate(all="ignore"):
        once = round_to(random_floats(5, 10**5), format)
        assert_same_bits(round_to(once, format), once)


def test_float64_is_rounded_at_once():
    # Through float32, 1 + 2^-8 + 2^-40 would be a tie, and go down to even.
    x = np.array([1.0 + 2.0**-8 + 2.0**-40, 1.0 + 2.0**-8, 1e300, -1e-300, np.nan])
    y = round_to(x, FORMATS["bfloat16"])
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y, [1.0 + 2.0**-7, 1.0, np.inf, -0.0, np.nan])
    assert np.signbit(y[3])
    x = np.random.default_rng(6).standard_normal(10**5)
    np.testing.assert_array_equal(round_to(x, FORMATS["float32"]), x.astype(np.float32))
    np.testing.assert_array_equal(round_to(x, FORMATS["float16"]), x.astype(np.float16))


def test_what_is_as_wide_as_the_array_stays_the_same_array():
    x = np.ones(2, np.float32)
    assert round_to(x, FORMATS["float32"]) is x
    assert round_to(x, FORMATS["float64"]) is x


@pytest.mark.nightly_on("jax")
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_backend_rounds_as_numpy(backend, name):
    x = np.concatenate([random_floats(7, 10**5), subnormals(8, 10**4), SPECIAL])
    format = find_format(name)
    with np.errstate(all="ignore"):
        y = round_to(backend.from_host(x), format)
        assert y.dtype == backend.xp.float32
        expected = to_numpy(backend, round_to(backend.from_host(x.astype(np.float64)), format))
        y = backend.to_host(y)
        assert_same_bits(y, as_kept(backend, x, round_to(x, format)))
        assert_same_bits(y, as_kept(backend, x, expected.astype(np.float32)))


def as_kept(backend, x, y):
    """The rounded y of x, where the library takes float32's subnormals for zero: 0 with the sign that it had."""
    tiny = np.finfo(np.float32).smallest_subnormal
    if backend.to_host(backend.from_host(np.full(8, tiny)) * 1.0).all():
        return y
    assert backend.name != "numpy"
    return np.where(np.abs(x) < np.finfo(np.float32).smallest_normal, y * 0.0, y)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_coin_rounds_up_as_often_as_the_number_is_far(name):
    # 2^10 equally spaced coins, and numbers j 2^-10 of a step above a number: exactly j of the coins round up.
    format = find_format(name)
    n = min(2**10, 2 ** (23 - format.mantissa_bits))
    j = np.arange(n, dtype=np.float64)
    for low in (1.0, -1.0, format.smallest_normal, 0.0, format.max / 2.0):
        step = format.eps * max(
            2.0 ** math.floor(math.log2(abs(low) or 1e-300)), format.smallest_normal
        )
        x = (low + np.copysign(step, low) * j / n).astype(np.float32)
        coins = (j / n).astype(np.float32)
        pairs = np.meshgrid(x, coins, indexing="ij")
        y = round_to(pairs[0], format, coin=pairs[1]).astype(np.float64)
        assert set(np.unique(y)) == {low, low + np.copysign(step, low)} if n > 1 else {low}
        np.testing.assert_array_equal(y.mean(axis=1), x.astype(np.float64))


def test_random_coins_are_unbiased():
    # Hoeffding: the mean of n rounded numbers, each within a step of the other, is off by more than
    # step sqrt(log(2 / 1e-9) / (2 n)) once in 1e9 draws.
    n, format = 10**6, FORMATS["float8_e5m2"]
    coin = np.random.default_rng(11).random(n, dtype=np.float32)
    for value in (1.1, -3.7, 1e-5, 300.0):
        x = np.full(n, value, np.float32)
        exponent = max(math.floor(math.log2(abs(value))), format.min_exponent)
        bound = format.eps * 2.0**exponent * math.sqrt(math.log(2e9) / (2 * n))
        mean = round_to(x, format, coin=coin).astype(np.float64).mean()
        assert abs(mean - np.float32(value)) < bound
        assert abs(float(round_to(x[:1], format)[0]) - np.float32(value)) > bound  # nearest is not


@pytest.mark.parametrize("name", EXAMPLES)
def test_with_a_coin_what_is_a_number_stays(name):
    format = find_format(name)
    with np.errstate(all="ignore"):
        x = round_to(random_floats(12, 10**5), format)
        coin = np.random.default_rng(13).random(x.shape, dtype=np.float32)
        assert_same_bits(round_to(x, format, coin=coin), x)


def test_with_a_coin_overflow_is_what_it_is_without():
    format = FORMATS["float8_e4m3fn"]
    x = np.array([448.0, 463.0, 464.0, 465.0, -1e9, np.inf], np.float32)
    for coin in (0.0, 0.999):
        y = round_to(x, format, coin=np.full(x.shape, coin, np.float32))
        np.testing.assert_array_equal(y, [448, 448, 448, np.nan, np.nan, np.nan])


def test_formats_by_their_bits():
    assert find_format("e5m7") == Format("e5m7", 5, 7)
    assert find_format("e8m10") is FORMATS["tf32"]
    assert find_format("e4m3") is FORMATS["float8_e4m3"]
    assert find_format("e8m23") is FORMATS["float32"]
    assert find_format("float8_e4m3fn").max == 448.0
    for text in ("e1m2", "e9m2", "e5m0", "e5m24", "e5m07", "E5M7", "e5", "", "bf16", "e5m7 "):
        assert format_of_bits(text) is None
        with pytest.raises(RequestError, match="such as e5m7"):
            find_format(text)

import math
from functools import partial

import numpy as np
import pytest

from xplm.rope_scaling import ROPE_TYPES, inverse_frequencies
from xplm.specs import RopeSpec

make_rope = partial(RopeSpec, dim=8, max_position_embeddings=64)


def frequencies(rope, *, length=1):
    return inverse_frequencies(rope, length=length)


def test_default_by_hand():
    inv_freq, scale = frequencies(make_rope(rope_theta=10000.0))
    np.testing.assert_allclose(inv_freq, [1, 0.1, 0.01, 0.001], rtol=1e-14)
    assert inv_freq.dtype == np.float64
    assert scale == 1.0


def test_linear_divides_every_frequency():
    inv_freq, scale = frequencies(make_rope("linear", factor=4.0))
    np.testing.assert_allclose(inv_freq, [0.25, 0.025, 0.0025, 0.00025], rtol=1e-14)
    assert scale == 1.0


def test_dynamic_is_plain_up_to_the_trained_length():
    plain, _ = frequencies(make_rope())
    for length in (1, 63, 64):
        inv_freq, _ = frequencies(make_rope("dynamic", factor=2.0), length=length)
        np.testing.assert_allclose(inv_freq, plain, rtol=1e-14)


def test_dynamic_stretches_theta_beyond_it():
    # Twice the length at factor 2: theta grows by (2 * 2 - 1)^(8 / 6), so the slowest pair turns 3 times slower.
    inv_freq, scale = frequencies(make_rope("dynamic", factor=2.0), length=128)
    np.testing.assert_allclose(
        inv_freq, np.array([1, 0.1 / 3 ** (1 / 3), 0.01 / 3 ** (2 / 3), 0.001 / 3])
    )
    assert scale == 1.0


def test_llama3_keeps_fast_pairs_and_interpolates_slow_ones():
    rope = make_rope(
        "llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=128,
    )
    inv_freq, scale = frequencies(rope)
    # Turns over 128 positions: 20.4 (kept), 2.04 (between), 0.2 and 0.02 (divided by 8).
    turns = 128 * 0.1 / (2 * math.pi)
    keep = (turns - 1) / 3
    between = keep * 0.1 + (1 - keep) * 0.1 / 8
    np.testing.assert_allclose(inv_freq, [1, between, 0.01 / 8, 0.001 / 8], rtol=1e-14)
    assert scale == 1.0


def test_yarn_ramps_between_its_two_pairs():
    # theta = 10^4 and D = 8: pair(turns) = 4 log10(L / (2 pi turns)) / 4. L = 2 pi 100: pair(100) = 0, pair(1) = 2.
    trained = 2 * math.pi * 100
    rope = make_rope(
        "yarn",
        factor=4.0,
        original_max_position_embeddings=trained,  # type: ignore[arg-type]
        beta_fast=100.0,
        beta_slow=1.0,
        truncate=False,
    )
    inv_freq, scale = frequencies(rope)
    # Ramp 0, 1/2, 1, 1: kept, halfway, divided by 4.
    expected = [1, (0.1 + 0.1 / 4) / 2, 0.01 / 4, 0.001 / 4]
    np.testing.assert_allclose(inv_freq, expected, rtol=1e-12)
    assert scale == pytest.approx(0.1 * math.log(4) + 1)


def test_yarn_truncation_rounds_the_ramp_outwards():
    rope = make_rope("yarn", factor=4.0, original_max_position_embeddings=100, beta_fast=4.0)
    # pair(4) = log10(100 / 8 pi) = 0.6 -> 0; pair(1) = log10(100 / 2 pi) = 1.2 -> 2: ramp 0, 1/2, 1, 1.
    inv_freq, _ = frequencies(rope)
    expected = [1, (0.1 + 0.1 / 4) / 2, 0.01 / 4, 0.001 / 4]
    np.testing.assert_allclose(inv_freq, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 0.1 * math.log(4) + 1),
        ({"attention_factor": 1.5}, 1.5),
        ({"factor": 1.0}, 1.0),
        (
            {"mscale": 0.7, "mscale_all_dim": 0.5},
            (0.07 * math.log(4) + 1) / (0.05 * math.log(4) + 1),
        ),
    ],
)
def test_yarn_scale_of_cos_and_sin(fields, expected):
    given = {"factor": 4.0, "original_max_position_embeddings": 16} | fields
    _, scale = frequencies(make_rope("yarn", **given))
    assert scale == pytest.approx(expected, rel=1e-14)


LONGROPE = {
    "original_max_position_embeddings": 16,
    "short_factor": (1.0, 1.0, 2.0, 4.0),
    "long_factor": (1.0, 2.0, 4.0, 8.0),
}


def test_longrope_takes_the_long_factors_beyond_the_trained_length():
    rope = make_rope("longrope", factor=4.0, **LONGROPE)
    for length, expected in (
        (1, [1, 0.1, 0.01 / 2, 0.001 / 4]),
        (16, [1, 0.1, 0.01 / 2, 0.001 / 4]),
        (17, [1, 0.1 / 2, 0.01 / 4, 0.001 / 8]),
    ):
        inv_freq, scale = frequencies(rope, length=length)
        np.testing.assert_allclose(inv_freq, expected, rtol=1e-14)
        assert scale == pytest.approx(math.sqrt(1.5), rel=1e-14)  # 1 + ln 4 / ln 16


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({"factor": 1.0}, 1.0), ({"factor": 4.0, "attention_factor": 1.3}, 1.3)],
)
def test_longrope_scale_of_cos_and_sin(fields, expected):
    assert frequencies(make_rope("longrope", **LONGROPE, **fields))[1] == expected


def test_every_type_gives_one_positive_number_a_pair():
    factors = {"short_factor": (1.0,) * 5, "long_factor": (1.0, 1.0, 2.0, 2.0, 3.0)}
    for rope_type in ROPE_TYPES:
        rope = make_rope(
            rope_type, factor=2.0, original_max_position_embeddings=32, dim=10, **factors
        )
        inv_freq, scale = frequencies(rope, length=100)
        assert inv_freq.shape == (5,)
        assert (inv_freq > 0).all()
        assert (np.diff(inv_freq) < 0).all()
        assert scale > 0

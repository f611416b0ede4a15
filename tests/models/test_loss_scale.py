"""The loss scale: when it halves, when it doubles, what it counts."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from xplm.models.loss_scale import GROWTH_INTERVAL, LossScale, make_loss_scale, unscale


def after(scale, overflows):
    for overflow in overflows:
        scale = scale.update(overflow)
    return scale


def test_it_begins_high_in_float16_and_at_one_elsewhere():
    assert make_loss_scale("float16") == LossScale(65536.0, is_dynamic=True)
    for dtype in ("float32", "bfloat16", "float64", "tf32", "e8m3", "float4_e2m1fn"):
        assert make_loss_scale(dtype) == LossScale(1.0, is_dynamic=False)


def test_every_format_that_ends_before_float32_and_tells_of_it_asks_for_a_scale():
    for names in (["float8_e4m3fn"], ["float32", "float8_e5m2"], ["bfloat16", "float32", "e5m7"]):
        assert make_loss_scale(*names) == LossScale(65536.0, is_dynamic=True)


def test_an_overflow_halves_it_and_is_counted():
    scale = after(make_loss_scale("float16"), [False, False, True])
    assert scale == LossScale(32768.0, good_steps=0, skipped=1, is_dynamic=True)


def test_it_doubles_after_2000_good_steps_in_a_row():
    scale = make_loss_scale("float16")
    assert GROWTH_INTERVAL == 2000
    assert after(scale, [False] * 1999) == LossScale(65536.0, good_steps=1999, is_dynamic=True)
    assert after(scale, [False] * 2000) == LossScale(131072.0, is_dynamic=True)
    broken = after(scale, [False] * 1999 + [True] + [False] * 1999)
    assert broken == LossScale(32768.0, good_steps=1999, skipped=1, is_dynamic=True)


def test_it_never_falls_below_one():
    scale = after(make_loss_scale("float16"), [True] * 40)
    assert (scale.scale, scale.skipped) == (1.0, 40)


def test_a_fixed_scale_stays_and_still_counts():
    scale = after(make_loss_scale("bfloat16"), [False] * 2000 + [True])
    assert scale == LossScale(1.0, good_steps=0, skipped=1)


def test_it_is_saved_as_json():
    scale = after(make_loss_scale("float16"), [True, False])
    assert LossScale(**json.loads(json.dumps(asdict(scale)))) == scale


@pytest.mark.parametrize("exponent", [0, 1, 16, 30])
def test_scaling_and_unscaling_round_nothing(exponent):
    grad = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    scaled = {"w": grad * np.float32(2.0**exponent)}
    scaled["w"].flags.writeable = False
    back = unscale(scaled, 2.0**exponent)["w"]
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, grad)


def test_what_float16_would_lose_comes_through_scaled():
    grad = 1e-8  # below half of float16's smallest number
    assert np.float16(grad) == 0
    kept = unscale({"w": np.float32([np.float16(grad * 65536.0)])}, 65536.0)["w"]
    np.testing.assert_allclose(kept, grad, rtol=2.0**-11)

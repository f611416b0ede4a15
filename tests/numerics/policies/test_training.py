"""Curves of one recipe under several policies."""

import pytest

from tests.train.runs import tiny_recipe
from xplm.backend import load_backend
from xplm.numerics.policies.training import LAST_STEPS, Curve, row, train_under


def train(folder, policy, **settings):
    recipe = tiny_recipe(folder, **settings)
    *_, last = train_under(
        recipe, policy, load_backend("numpy"), kernels="fused", init=None, cache=folder / "tokens"
    )
    return last


def test_equal_policies_give_equal_curves_whatever_the_recipe_says(tmp_path):
    one = train(tmp_path, "fp32", train__policy="bf16", train__sample_prompts=["a"])
    two = train(tmp_path, "fp32")
    assert one.losses == two.losses
    assert one.val_losses == two.val_losses
    assert one.steps == list(range(1, 13))
    assert [step for step, _ in one.val_losses] == [0, 4, 8, 12]
    assert one.losses[-1] < one.losses[0]
    assert not list(tmp_path.glob("**/checkpoints"))


def test_precision_alone_tells_two_curves_apart(tmp_path):
    wide, narrow = (train(tmp_path, policy) for policy in ("fp32", "bf16"))
    off = [abs(a - b) for a, b in zip(wide.losses, narrow.losses, strict=True)]
    assert 0.0 < off[0] < 0.02  # the same batch and first weights: rounding is all that differs
    assert row(narrow, wide)["val_loss_off_reference"] == (
        narrow.val_losses[-1][1] - wide.val_losses[-1][1]
    )
    assert row(wide, wide)["val_loss_off_reference"] == 0.0


def test_a_skipped_step_and_the_scale_that_follows_are_seen(tmp_path):
    # A scale of 2^16 overflows float16 where gradients are large, as those of the first steps of a hot start are.
    curve = train(tmp_path, "fp16", model__initializer_range=2.0, train__steps=6)
    assert curve.scales[0] == 2.0**16
    assert curve.skipped
    first = curve.skipped[0]
    assert curve.scales[first] == curve.scales[first - 1] / 2
    figures = row(curve, curve)
    assert (figures["skipped"], figures["skipped_steps"]) == (len(curve.skipped), curve.skipped)


def test_a_run_that_diverges_says_so_and_keeps_what_it_had(tmp_path):
    curve = train(tmp_path, "fp32", schedule__lr=1e30, schedule__warmup_steps=0)
    assert "must stay finite" in curve.stopped
    assert 1 <= len(curve.steps) < 12
    assert row(curve, curve)["stopped"] == curve.stopped


def test_the_end_is_the_mean_of_the_last_steps():
    losses = [100.0] * 5 + [1.0, 3.0] * (LAST_STEPS // 2)
    assert Curve("fp32", losses=losses).end_loss == pytest.approx(2.0)
    figures = row(Curve("fp32"), Curve("fp32"))
    assert (figures["train_loss"], figures["val_loss"], figures["loss_scale"]) == (None,) * 3

"""Curves: every metric has its place, and every axis its numbers."""

import math
import warnings
from dataclasses import fields

import pytest

from xplm.train import curves
from xplm.train.metrics import Metrics

pytest.importorskip("matplotlib", reason=f"curves need matplotlib; {curves.INSTALL}")


SHOWN = [name for names in curves.PANELS.values() for name in names]


def metrics(step, **values):
    """A line of metrics, all None but these."""
    return {"step": step, **dict.fromkeys(SHOWN)} | values


def test_curves_leave_out_what_was_not_measured_and_begin_shares_at_zero():
    lines = [metrics(step, train_loss=3.0 - step, lr=1e-4) for step in range(3)]
    axes = curves.make_figure(lines).axes
    assert [axis.get_title() for axis in axes] == ["loss", "learning rate"]
    assert axes[0].get_ylim()[0] > 0.5
    assert axes[1].get_ylim()[0] == 0.0
    assert curves.make_figure([]).axes == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([9.0, 12.0], ["9", "10", "11", "12"]),
        ([4.0, 70.0], ["5", "10", "20", "50"]),
        ([1.0, 1e12], ["1", "10000", "1e+08", "1e+12"]),
        ([0.0, math.inf], []),
    ],
)
def test_a_logarithmic_axis_has_numbers_whatever_it_spans(values, expected):
    lines = [metrics(step, perplexity=value) for step, value in enumerate(values)]
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of 0 on such an axis
        (axis,) = curves.make_figure(lines).axes
        axis.figure.draw_without_rendering()
    low, high = axis.get_ylim()
    ticks = zip(axis.get_yticks(), axis.get_yticklabels(), strict=True)
    shown = [label.get_text() for place, label in ticks if low <= place <= high]
    assert set(expected) <= set(shown)
    assert len(shown) <= 12


def test_curves_show_every_metric(tmp_path):
    lines = [metrics(step, train_loss=3.0, lr=0.1, grad_norm=1.0) for step in (1, 2, 3)]
    lines[1] |= {"val_loss": 2.5, "val_accuracy": 0.5, "perplexity": 12.0}
    curves.draw_curves(tmp_path / "curves.png", lines)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    assert [axis.get_title() for axis in curves.make_figure(lines).axes] == list(curves.PANELS)
    assert {*SHOWN} == {field.name for field in fields(Metrics)} - {
        "step",
        "tokens_per_s",
        "loss_scale",
    }


@pytest.mark.parametrize("huge", [1e300, -1e308, 1.7e308])
def test_numbers_near_the_largest_are_left_out(tmp_path, huge):
    lines = [
        {"step": step, "train_loss": 2.0, "val_loss": huge, "grad_norm": huge} for step in (0, 1)
    ]
    curves.draw_curves(tmp_path / "curves.png", lines)
    assert (tmp_path / "curves.png").stat().st_size > 1000

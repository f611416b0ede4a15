"""train --dry-run: what it prints, and that it keeps nothing."""

import pytest

from tests.train.runs import tiny_recipe
from xplm.train.recipe import to_toml

PARTS = ["parameters", "gradients", "optimizer", "activations", "logits", "holes", "process"]


@pytest.fixture
def recipe(tmp_path):
    """A recipe file whose data are beside it."""
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(tiny_recipe(tmp_path)), encoding="utf-8")
    return path


def files(directory):
    """Every file below a directory, and what is in it."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_table_says_what_the_peak_is_made_of(xplm, recipe, tmp_path):
    out = xplm("train", recipe, "--out", tmp_path / "run", "--dry-run")
    assert (out.code, out.stderr) == (0, "")
    lines = out.stdout.splitlines()
    words = [line.split()[0] for line in lines if line]
    assert words == ["parameters", "steps", "tokens", *PARTS, "predicted", "measured"]
    assert lines[1].split() == ["steps", "12"]
    assert lines[2].split() == ["tokens", str(12 * 4 * 8)]
    assert not (tmp_path / "run").exists()


def test_json_gives_all_figures(xplm, recipe, tmp_path):
    out = xplm("train", recipe, "--out", tmp_path / "run", "--dry-run", "--json").json
    assert (out["steps"], out["tokens"]) == (12, 12 * 4 * 8)
    assert list(out["predicted_memory_bytes"]) == PARTS
    assert out["predicted_memory_bytes"]["optimizer"] == 2 * 4 * out["parameters"]
    assert out["predicted_peak_at"] == "last block"
    assert out["predicted_peak_memory_bytes"] >= sum(out["predicted_memory_bytes"].values())
    assert out["peak_memory_bytes"] > out["predicted_memory_bytes"]["parameters"]


def test_its_steps_are_the_first_of_the_run(xplm, recipe, tmp_path):
    tried = xplm("train", recipe, "--dry-run", "--json").json["losses"]
    flags = ("--steps", 2, "--set", "train.log_every=1", "--set", "schedule.kind=constant")
    tried_so = xplm("train", recipe, *flags, "--dry-run", "--json").json["losses"]
    run = xplm("train", recipe, *flags, "--out", tmp_path / "run", "--json").json
    assert tried[0] == tried_so[0]
    assert run["train_loss"] == tried_so[1]


def test_a_run_that_is_there_stays_as_it_is(xplm, recipe, tmp_path):
    xplm("train", recipe, "--out", tmp_path / "run")
    before = files(tmp_path / "run")
    assert xplm("train", recipe, "--out", tmp_path / "run", "--dry-run").code == 0
    assert files(tmp_path / "run") == before


def test_a_run_measured_in_epochs_has_its_steps(xplm, recipe):
    epochs = (
        "--set",
        "train.steps=0",
        "--set",
        "train.epochs=2",
        "--set",
        "schedule.warmup_steps=0",
    )
    out = xplm("train", recipe, *epochs, "--dry-run", "--json").json
    assert out["steps"] > 2
    assert out["tokens"] == out["steps"] * 4 * 8


def test_adapters_are_tried_out_too(xplm, recipe, tmp_path):
    xplm("train", recipe, "--out", tmp_path / "base")
    tune = ("--init", tmp_path / "base", "--lora", 2, "--dry-run", "--json")
    out = xplm("train", recipe, *tune).json
    assert out["predicted_memory_bytes"]["parameters"] > 4 * out["parameters"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--resume"], "--dry-run tries out a run from its beginning; got --resume too"),
        (["--lora", "2"], "adapters go on from a model"),
        (["--set", "optimizer.name=adamm"], 'got "adamm"'),
        (["--data", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_input_is_one_line(xplm, recipe, flags, message):
    assert message in xplm("train", recipe, "--dry-run", *flags).error

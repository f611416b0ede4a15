"""scripts/learning.py calls what reaches its threshold met, and what does not missed."""

import json
import math
import runpy
import subprocess
import sys

import pytest

from tests.paths import ROOT
from tests.train.runs import tiny_recipe, write_text
from xplm.train.recipe import to_toml

SCRIPT = ROOT / "scripts" / "learning.py"


@pytest.fixture(scope="module")
def judge():
    return runpy.run_path(str(SCRIPT))["judge"]


def char_run(arch="llama", policy="fp32", seed=1, loss=1.6, seconds=90.0):
    key = {"part": "shakespeare", "arch": arch, "policy": policy, "seed": seed}
    return {**key, "loss": loss, "seconds": seconds}


def facts_run(recalled):
    figures = {"recalled": recalled, "asked": 53, "seconds": 60.0}
    return {"part": "facts", "arch": "gpt", "seed": 1, **figures}


def tuning(after=2.9, peak_bytes=2**30):
    figures = {"before": 3.0, "after": after, "seconds": 60.0, "peak_bytes": peak_bytes}
    return {"part": "finetune", "seed": 1, **figures}


def missed(rows):
    return [row.what for row in rows if not row.is_met]


@pytest.mark.parametrize(
    "records",
    [
        [char_run(loss=1.70)],
        [char_run("gpt", loss=1.92, seed=1), char_run("gpt", loss=1.88, seed=2)],
        [char_run(loss=1.625), char_run(policy="bf16", loss=1.6328125)],  # exact in binary
        [char_run(loss=1.625), char_run(policy="fp16", loss=1.6171875)],
        [facts_run(52)],
        [tuning()],
    ],
)
def test_what_reaches_its_threshold_is_met(judge, records):
    assert missed(judge(records)) == []


@pytest.mark.parametrize(
    ("records", "what"),
    [
        ([char_run(loss=1.71)], "shakespeare-char llama fp32 seed 1: loss"),
        ([char_run(loss=math.nan)], "shakespeare-char llama fp32 seed 1: loss"),
        (
            [char_run("gpt", loss=1.91, seed=1), char_run("gpt", loss=1.90, seed=2)],
            "shakespeare-char gpt fp32: mean loss",
        ),
        (
            [char_run(loss=1.60), char_run(policy="bf16", loss=1.62)],
            "shakespeare-char llama bf16 seed 1: off fp32",
        ),
        (
            [char_run(loss=1.62), char_run(policy="bf16", loss=1.60)],
            "shakespeare-char llama bf16 seed 1: off fp32",
        ),
        ([facts_run(51)], "facts gpt seed 1: recalled of 53"),
        ([tuning(after=3.0)], "SmolLM2, tuned: loss on text held out"),
        ([tuning(peak_bytes=6 * 2**30)], "SmolLM2, tuned: peak GiB"),
    ],
)
def test_what_does_not_is_missed(judge, records, what):
    assert missed(judge(records)) == [what]


def test_the_time_beside_torch_is_shown_and_not_judged(judge):
    peer = char_run(seconds=45.0) | {"part": "torch", "loss": None}
    rows = {row.what: row for row in judge([char_run(seconds=90.0), peer])}
    row = rows["shakespeare-char llama fp32 seed 1: time / torch"]
    assert (row.value, row.sense, row.is_met) == (2.0, "", True)


@pytest.mark.nightly
def test_a_run_is_measured_once_and_then_read(tmp_path):
    """A tiny recipe does not reach the threshold; with the loss of one that does in its place, nothing is missed."""
    recipe = to_toml(tiny_recipe(tmp_path, train__steps=2, train__eval_every=2))
    (tmp_path / "shakespeare-char.toml").write_text(recipe, encoding="utf-8")
    data, figures = write_text(tmp_path / "text.txt"), tmp_path / "figures.jsonl"

    def run():
        flags = ("--only", "shakespeare", "--arch", "llama", "--seeds", "1", "--policies")
        files = ("--data", data, "--recipes", tmp_path, "--json", figures, "--torch-steps", "0")
        command = [sys.executable, SCRIPT, *flags, *files]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    out = run()
    assert (out.returncode, "| <= 1.7 | MISSED |" in out.stdout) == (1, True), out
    (record,) = map(json.loads, figures.read_text().splitlines())
    assert record["loss"] > 1.7

    figures.write_text(json.dumps(record | {"loss": 1.5}) + "\n")
    out = run()
    assert (out.returncode, "| 1.5 | <= 1.7 | met |" in out.stdout) == (0, True), out
    assert len(figures.read_text().splitlines()) == 1


def test_a_run_that_fails_is_told_from_a_threshold_that_is_missed(tmp_path):
    flags = ("--only", "finetune", "--data", tmp_path / "nonesuch", "--init", tmp_path)
    command = [sys.executable, SCRIPT, *flags]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    assert out.returncode == 2
    assert "error: exit code 2 of -m xplm train" in out.stderr

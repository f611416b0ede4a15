"""A run that was stopped and resumed ends in the very weights of one that was not."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.paths import ROOT
from tests.train.runs import (
    HARD,
    assert_bitwise_equal,
    host_weights,
    run_to,
    start,
    tiny_recipe,
    untimed,
)
from xplm.backend import load_backend
from xplm.errors import CheckpointError, RequestError
from xplm.train.metrics import read_lines
from xplm.train.state import load_state

pytestmark = pytest.mark.first


@pytest.mark.parametrize(
    ("optimizer", "stop"),
    [
        ("adamw", 7),
        ("muon", 5),
        *(
            pytest.param(*of_other, marks=pytest.mark.nightly)
            for of_other in (("adamw", 1), ("adamw", 4), ("sgd", 5), ("lion", 5), ("adafactor", 5))
        ),
    ],
)
def test_stopped_saved_and_resumed(tmp_path, optimizer, stop):
    recipe = tiny_recipe(tmp_path, optimizer__name=optimizer, **HARD)
    unbroken = run_to(start(recipe, tmp_path / "unbroken"))

    run_to(start(recipe, tmp_path / "broken"), stop).save()
    resumed = start(recipe, tmp_path / "broken", resume=True)
    assert resumed.state.step == stop
    run_to(resumed)
    assert_bitwise_equal(host_weights(resumed), host_weights(unbroken))
    assert resumed.state.best_step == unbroken.state.best_step
    assert untimed(tmp_path / "broken") == untimed(tmp_path / "unbroken")
    assert read_lines(tmp_path / "broken/samples.jsonl") == read_lines(
        tmp_path / "unbroken/samples.jsonl"
    )


@pytest.mark.parametrize(
    "policy", ["fp16", *(pytest.param(p, marks=pytest.mark.nightly) for p in ("bf16", "fp64"))]
)
def test_resumed_under_every_policy(tmp_path, policy):
    recipe = tiny_recipe(tmp_path, train__policy=policy)
    unbroken = run_to(start(recipe, tmp_path / "unbroken"))
    run_to(start(recipe, tmp_path / "broken"), 5).save()
    resumed = run_to(start(recipe, tmp_path / "broken", resume=True))
    assert_bitwise_equal(host_weights(resumed), host_weights(unbroken))
    assert resumed.state.scale == unbroken.state.scale


def test_evaluations_and_samples_disturb_nothing(tmp_path):
    often = {"train__eval_every": 1, "train__log_every": 1, "train__sample_prompts": ["the "]}
    runs = [
        run_to(start(tiny_recipe(tmp_path, train__dropout=0.1, **settings), tmp_path / name))
        for name, settings in (("seldom", {}), ("often", often))
    ]
    assert_bitwise_equal(host_weights(runs[1]), host_weights(runs[0]))


def test_a_run_without_a_checkpoint_is_resumed_from_its_beginning(tmp_path):
    recipe = tiny_recipe(tmp_path)
    run_to(start(recipe, tmp_path / "run"), 2)
    resumed = start(recipe, tmp_path / "run", resume=True)
    assert resumed.state.step == 0
    run_to(resumed)
    assert [line["step"] for line in untimed(tmp_path / "run")] == [0, 2, 4, 6, 8, 10, 12]


def test_a_run_that_is_over_is_resumed_in_vain(tmp_path):
    recipe = tiny_recipe(tmp_path)
    first = run_to(start(recipe, tmp_path / "run"))
    (tmp_path / "run/model.safetensors").unlink()  # killed after the checkpoint, before this
    second = run_to(start(recipe, tmp_path / "run", resume=True))
    assert_bitwise_equal(host_weights(second), host_weights(first))
    assert_bitwise_equal(load_file(tmp_path / "run/model.safetensors"), host_weights(first))


@pytest.mark.parametrize("steps", [12, 4])
def test_steps_that_are_passed_change_no_file(tmp_path, steps):
    run_to(start(tiny_recipe(tmp_path), tmp_path / "run"))

    def files():
        found = [path for path in (tmp_path / "run").rglob("*") if path.name != ".lock"]
        return {
            path: (path.stat().st_mtime_ns, path.is_dir() or path.read_bytes()) for path in found
        }

    before = files()
    recipe = tiny_recipe(tmp_path, train__steps=steps, schedule__lr=0.5)
    over = run_to(start(recipe, tmp_path / "run", resume=True))
    assert over.state.step == 12
    assert f"the run has taken 12 steps of {steps}: nothing is left to do" in over.job.notes[-1]
    assert files() == before


def test_data_that_are_not_the_runs_are_noted(tmp_path):
    run_to(start(tiny_recipe(tmp_path), tmp_path / "run"), 4)
    moved = (tmp_path / "text.txt").rename(tmp_path / "moved.txt")
    same = start(tiny_recipe(tmp_path, data__path=str(moved)), tmp_path / "run", resume=True)
    assert same.job.notes == ()
    same.close()

    with moved.open("a") as file:
        file.write("the red cat\n")
    other = start(tiny_recipe(tmp_path, data__path=str(moved)), tmp_path / "run", resume=True)
    assert other.job.notes == (f"{moved} holds other data than the run began with",)
    other.close()


def test_what_a_killed_save_left_is_cleared_away(tmp_path):
    recipe = tiny_recipe(tmp_path)
    run_to(start(recipe, tmp_path / "run"), 6)
    left = tmp_path / "run/checkpoints/.step-00000008.x.partial"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    resumed = start(recipe, tmp_path / "run", resume=True)
    assert (resumed.state.step, left.exists()) == (4, False)
    resumed.close()


def test_another_model_is_refused(tmp_path):
    run_to(start(tiny_recipe(tmp_path), tmp_path / "run"), 4)
    other = tiny_recipe(tmp_path, model__hidden_size=24)
    with pytest.raises(CheckpointError, match=r"\(\d+, 16\) in its checkpoint and \(\d+, 24\) by"):
        start(other, tmp_path / "run", resume=True)


def test_another_model_of_the_same_shapes_is_refused(tmp_path):
    run_to(start(tiny_recipe(tmp_path), tmp_path / "run"), 4)
    other = tiny_recipe(tmp_path, model__rope_theta=500.0)
    with pytest.raises(
        RequestError, match=r"the model and the tokenizer that it began with; got model.rope_theta"
    ):
        start(other, tmp_path / "run", resume=True)


def test_moments_that_the_run_does_not_have_are_refused(tmp_path):
    sgd = tiny_recipe(tmp_path, optimizer__name="sgd")
    run_to(start(sgd, tmp_path / "run"), 4)
    other = tiny_recipe(tmp_path, optimizer__name="sgd", optimizer__momentum=0.9)
    with pytest.raises(RequestError, match="keep the optimizer's moments"):
        start(other, tmp_path / "run", resume=True)


def test_another_optimizer_is_refused(tmp_path):
    run_to(start(tiny_recipe(tmp_path), tmp_path / "run"), 4)
    other = tiny_recipe(tmp_path, optimizer__name="sgd")
    with pytest.raises(RequestError, match="the optimizer that it began with, adamw; got sgd"):
        start(other, tmp_path / "run", resume=True)


@pytest.mark.parametrize("damage", ["cut", "gone", "json", "types"])
def test_a_damaged_state_is_one_clear_error(tmp_path, damage):
    recipe = tiny_recipe(tmp_path)
    run_to(start(recipe, tmp_path / "run"), 4)
    checkpoint = tmp_path / "run/checkpoints/step-00000004"
    tensors = checkpoint / "state.safetensors"
    if damage == "cut":
        os.truncate(tensors, tensors.stat().st_size // 2)
    elif damage == "gone":
        tensors.unlink()
    elif damage == "json":
        (checkpoint / "state.json").write_text('{"step": 4}')
    else:
        facts = json.loads((checkpoint / "state.json").read_text())
        (checkpoint / "state.json").write_text(json.dumps(facts | {"step": "4"}))
    with pytest.raises(CheckpointError, match="whole training state"):
        start(recipe, tmp_path / "run", resume=True)


def test_one_process_at_a_time_has_a_runs_directory(tmp_path):
    recipe = tiny_recipe(tmp_path)
    first = start(recipe, tmp_path / "run")
    for resume in (True, False):
        with pytest.raises(RequestError, match=r"another one is at work|holds a run already"):
            start(recipe, tmp_path / "run", resume=resume)
    with pytest.raises(RequestError, match=r"another one is at work on .*/run"):
        start(recipe, tmp_path / "run", resume=True)
    first.close()
    start(recipe, tmp_path / "run", resume=True).close()


def test_a_run_that_could_not_begin_lets_go_of_its_directory(tmp_path):
    run_to(start(tiny_recipe(tmp_path), tmp_path / "run"), 4)
    with pytest.raises(RequestError, match="the optimizer that it began with"):
        start(tiny_recipe(tmp_path, optimizer__name="sgd"), tmp_path / "run", resume=True)
    start(tiny_recipe(tmp_path), tmp_path / "run", resume=True).close()


def test_the_mean_loss_of_a_line_is_the_same_after_a_resume_in_its_midst(tmp_path):
    recipe = tiny_recipe(tmp_path, train__log_every=4, train__eval_every=12)
    run_to(start(recipe, tmp_path / "unbroken"))
    run_to(start(recipe, tmp_path / "broken"), 6).save()
    run_to(start(recipe, tmp_path / "broken", resume=True))
    losses = [
        [line["train_loss"] for line in read_lines(tmp_path / run / "metrics.jsonl")]
        for run in ("unbroken", "broken")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.train.runs import run_to, start, tiny_recipe
from xplm.errors import CheckpointError

folder = Path(sys.argv[2])
trainer = run_to(start(tiny_recipe(folder), folder / "run"), 4)
trainer = start(tiny_recipe(folder), folder / "run", resume=True)
for progress in trainer.run():
    if progress.step == 6:
        break
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that write fails, and not the process
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
try:
    trainer.save()
except CheckpointError as error:
    print(error)
"""


def test_a_save_that_the_disk_refuses_leaves_the_checkpoint_before_readable(tmp_path):
    """A limit on the size of files makes a real write fail half-way, as a full disk does."""
    command = [sys.executable, "-c", FULL_DISK, str(ROOT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "could not be written: File too large" in done.stdout
    kept = [path.name for path in (tmp_path / "run/checkpoints").iterdir()]
    assert kept == ["step-00000004"]
    resumed = start(tiny_recipe(tmp_path), tmp_path / "run", resume=True)
    assert resumed.state.step == 4
    run_to(resumed)
    unbroken = run_to(start(tiny_recipe(tmp_path), tmp_path / "unbroken"))
    assert_bitwise_equal(host_weights(resumed), host_weights(unbroken))


@pytest.mark.parametrize(
    "change",
    [
        {"step": 4.0},
        {"step": True},
        {"step": -1},
        {"optimizer_step": None},
        {"best_loss": "low"},
        {"best_loss": float("nan")},
        {"best_step": 1.5},
        {"line_loss": None},
        {"line_targets": 2.5},
        {"unknown": 1},
        {"scale": 1.0},
        {"scale": {}},
        {"scale": {"scale": "1", "good_steps": 0, "skipped": 0, "is_dynamic": False}},
        {"scale": {"scale": 1.0, "good_steps": 0.5, "skipped": 0, "is_dynamic": False}},
        {"scale": {"scale": 1.0, "good_steps": 0, "skipped": -1, "is_dynamic": False}},
        {"scale": {"scale": 1.0, "good_steps": 0, "skipped": 0, "is_dynamic": 0}},
    ],
    ids=str,
)
def test_a_state_with_a_broken_value_is_one_clear_error(tmp_path, saved_state, change):
    facts = saved_state / "state.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | change))
    with pytest.raises(CheckpointError, match="whole training state"):
        load_state(saved_state, load_backend())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    run_to(start(tiny_recipe(folder), folder / "run"), 4)
    return folder / "run/checkpoints/step-00000004"


@pytest.fixture
def saved_state(saved, tmp_path):
    """A copy of a checkpoint, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "checkpoint"))

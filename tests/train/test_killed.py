"""Training processes that are killed or interrupted."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.paths import ROOT
from tests.train.runs import HARD, assert_bitwise_equal, tiny_recipe, untimed
from xplm.train.recipe import to_toml


def xplm_train(tmp_path, out, *flags):
    command = [sys.executable, "-m", "xplm", "train", str(tmp_path / "recipe.toml"), "--quiet"]
    return subprocess.Popen(
        [*command, "--out", str(tmp_path / out), *flags],
        cwd=ROOT,
        env=os.environ | {"XPLM_HOME": str(tmp_path / "home"), "OPENBLAS_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process):
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr


@pytest.mark.parametrize(
    ("n_kills", "steps"), [(1, 20), pytest.param(10, 80, marks=pytest.mark.nightly)]
)
def test_killed_at_random_moments(tmp_path, n_kills, steps):
    recipe = tiny_recipe(tmp_path, **HARD | {"train__steps": steps, "train__eval_every": 5})
    (tmp_path / "recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
    began = time.monotonic()
    finish(xplm_train(tmp_path, "unbroken"))
    seconds = time.monotonic() - began

    chance = random.Random(0)
    for _ in range(n_kills):
        process = xplm_train(tmp_path, "broken", "--resume")
        time.sleep(chance.uniform(0.3, 1.0) * seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(xplm_train(tmp_path, "broken", "--resume"))

    broken, unbroken = (
        load_file(tmp_path / out / "model.safetensors") for out in ("broken", "unbroken")
    )
    assert_bitwise_equal(broken, unbroken)
    assert untimed(tmp_path / "broken") == untimed(tmp_path / "unbroken")
    assert not list((tmp_path / "broken/checkpoints").glob(".*"))


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    recipe = tiny_recipe(tmp_path, train__steps=100_000, train__eval_every=50)
    (tmp_path / "recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
    process = xplm_train(tmp_path, "run")
    while not (tmp_path / "run/checkpoints/step-00000050").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    assert (process.returncode, stdout) == (130, "")
    assert "stopping after this step, saving; Ctrl-C again stops at once" in stderr
    steps = [
        int(path.name.removeprefix("step-")) for path in (tmp_path / "run/checkpoints").iterdir()
    ]
    assert f"stopped and saved after step {max(steps)}" in stderr
    command = stderr.split("to go on: ")[1].split()
    assert command[:2] == ["xplm", "train"]

    finish(xplm_train(tmp_path, "run", *command[3:], "--set", f"train.steps={max(steps) + 1}"))
    assert np.all(
        [np.isfinite(x).all() for x in load_file(tmp_path / "run/model.safetensors").values()]
    )

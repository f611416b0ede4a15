"""The scripts that measure policies: what they print and write, and how they end."""

import json
import runpy
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.conftest import write_tiny
from tests.paths import ROOT
from tests.train.runs import tiny_recipe, write_text
from xplm.cli.output import Output, OutputFlags
from xplm.errors import RequestError
from xplm.train.curves import can_draw
from xplm.train.recipe import to_toml

PNG = b"\x89PNG\r\n\x1a\n"
needs_matplotlib = pytest.mark.skipif(not can_draw(), reason="pictures need matplotlib")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("precision") / "tiny")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("precision") / "text.txt", 20000)


def command(name, *arguments):
    return [sys.executable, str(ROOT / "scripts" / f"precision_{name}.py"), *map(str, arguments)]


def run(name, *arguments):
    return subprocess.run(
        command(name, *arguments), capture_output=True, text=True, check=False, timeout=600
    )


def table(out):
    """Rows of the table by their first cell."""
    rows = [line.strip("| ").split(" | ") for line in out.stdout.splitlines() if line[:1] == "|"]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_a_sweep_prints_what_it_writes(model, text, tmp_path):
    out = run(
        "sweep", "--model", model, "--text", text, "--characters", 100, "--window", 64,
        "--policies", "fp32", "bf16,rope=fp8", "--json", tmp_path / "a.json",
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    figures = json.loads((tmp_path / "a.json").read_text())
    assert (figures["tokens_in_text"], figures["tokens_read"]) == (100, 100)
    wide, narrow = figures["policies"]
    assert table(out)["fp32"][:3] == [f"{wide['perplexity']:.3f}", "0.00e+00", "100.0%"]
    assert table(out)["bf16,rope=fp8"][1] == f"{narrow['kl']:.2e}"
    assert len(narrow["drift_by_layer"]) == 3
    assert min(wide["peak_bytes"], narrow["peak_bytes"]) > 2**20
    assert narrow["param_bytes"] * 2 == wide["param_bytes"]
    assert "100 of 100 tokens" in out.stderr


def test_a_sweep_that_is_interrupted_keeps_what_it_has(model, text, tmp_path):
    path = tmp_path / "a.json"
    process = subprocess.Popen(
        command(
            "sweep", "--model", model, "--text", text, "--window", 64, "--policies", "bf16",
            "--json", path,
        ),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not path.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=600)
    figures = json.loads(path.read_text())
    assert process.returncode == 130, stderr
    assert 64 <= figures["tokens_read"] < figures["tokens_in_text"]
    assert f"stopped after {figures['tokens_read']:,} of" in stderr
    assert "Traceback" not in stderr
    assert stdout.splitlines()[-1].startswith("| bf16")


def test_a_measurement_that_is_killed_is_said(monkeypatch):
    measure_peaks = runpy.run_path(command("sweep")[1])["measure_peaks"]
    killed = subprocess.CompletedProcess([], -signal.SIGKILL)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: killed)
    with pytest.raises(RequestError, match=r"the memory of bf16 must be measured; signal 9 ended"):
        measure_peaks(["bf16"], 64, Output(OutputFlags(quiet=True)))


def test_a_search_prints_a_policy_that_the_flag_takes(model, text, tmp_path):
    out = run(
        "search", "--model", model, "--text", text, "--characters", 60, "--budget", 100,
        "--formats", "bf16", "--parts", "param", "norm", "--json", tmp_path / "a.json",
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    assert out.stdout.splitlines()[-1].startswith("--policy fp32,param=bf16,norm=bf16 ")
    trials = json.loads((tmp_path / "a.json").read_text())["trials"]
    assert [(t["policy"], t["is_kept"]) for t in trials] == [
        ("fp32", True),
        ("fp32,param=bf16", True),
        ("fp32,param=bf16,norm=bf16", True),
    ]


def test_training_under_policies_shows_their_difference(tmp_path):
    (tmp_path / "tiny.toml").write_text(to_toml(tiny_recipe(tmp_path)), encoding="utf-8")
    out = run(
        "train", tmp_path / "tiny.toml", "--steps", 5, "--policies", "fp32", "fp16",
        "--json", tmp_path / "a.json",
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    wide, narrow = json.loads((tmp_path / "a.json").read_text())["policies"]
    assert (len(wide["losses"]), wide["val_loss_off_reference"]) == (5, 0.0)
    assert table(out)["fp16"][3] == f"{narrow['val_loss'] - wide['val_loss']:+.4f}"
    assert table(out)["fp16"][5] == "65536"


@needs_matplotlib
def test_pictures_are_drawn_of_broken_policies_too(model, text, tmp_path):
    out = run(
        "sweep", "--model", model, "--text", text, "--characters", 70, "--window", 70,
        "--policies", "fp32", "fp4,norm=e2m1", "--png", tmp_path / "a.png",
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)

    (tmp_path / "tiny.toml").write_text(to_toml(tiny_recipe(tmp_path)), encoding="utf-8")
    flags = ("--steps", 3, "--policies", "fp32", "fp16", "--set", "schedule.lr=1e30")
    out = run("train", tmp_path / "tiny.toml", *flags, "--png", tmp_path / "b.png")
    assert out.returncode == 0, out.stderr
    assert (tmp_path / "b.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("sweep", ("--policies", "bf17"), 'got "bf17"'),
        ("sweep", ("--window", "1"), "at least 2 ids"),
        ("sweep", ("--window", "257"), "at most the model's context of 256; got 257"),
        ("sweep", ("--threads", "0"), "--threads must be at least 1; got 0"),
        ("search", ("--budget", "-1"), "at least 0 nats"),
        ("search", ("--parts", "matmul"), "got matmul"),
    ],
)
def test_bad_input_is_one_line(model, text, name, flags, message):
    characters = ("--characters", "40", "--quiet")
    out = run(name, "--model", model, "--text", text, *characters, *flags)
    assert (out.returncode, out.stdout) == (2, "")
    (line,) = out.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line

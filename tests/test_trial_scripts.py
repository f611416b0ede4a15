"""The scripts that try parity and fragility out: how they end, and what a file of theirs may go on with."""

import json
import runpy
import sys

import pytest

from tests.cli.conftest import write_tiny
from tests.paths import ROOT
from tests.train.runs import write_text


@pytest.fixture
def script(monkeypatch, capsys):
    """Runs a script here; its exit code, and what it wrote."""

    def run(name, *arguments):
        path = str(ROOT / "scripts" / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(path, run_name="__main__")
        return end.value.code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(("alarms", "code"), [([], 0), (["linear y: is off"], 1)])
def test_an_alarm_is_exit_code_1(script, monkeypatch, alarms, code):
    monkeypatch.setattr("xplm.numerics.parity.trials.clean_run", lambda *_: alarms)
    found, out, _ = script("parity_trials", "--runs", 2, "--policy", "bf16")
    assert found == code
    assert f"numpy: {2 * code} of 2 runs raised an alarm" in out
    assert out.count("numpy:bf16, seed") == 2 * code


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("parity_trials", ("--runs", 0), "--runs must be at least 1; got 0"),
        ("parity_trials", ("--backend", "nonesuch"), 'no backend named "nonesuch"'),
        ("fragility", ("--text", "a.txt", "--other", "torch"), 'got "torch"'),
    ],
)
def test_bad_input_is_one_line(script, name, flags, message):
    code, out, err = script(name, *flags)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_file_goes_on_with_the_flags_that_it_was_begun_with(script, tmp_path):
    model, file = write_tiny(tmp_path / "tiny"), tmp_path / "batches.jsonl"
    text = write_text(tmp_path / "text.txt", 2000)
    flags = ["--text", text, "--model", model, "--other", "numpy:bf16", "--reply", 4, "--batch", 2]
    flags += ["--file", file, "--json"]
    code, out, _ = script("fragility", *flags, "--tokens", 1)
    result = json.loads(out)
    assert code == (0 if result["is_met"] else 1)
    assert result["tokens"] >= 1
    first = file.read_text()

    _, out, _ = script("fragility", *flags, "--tokens", result["tokens"] + 1)
    assert json.loads(out)["tokens"] > result["tokens"]
    assert file.read_text().startswith(first)

    code, out, err = script("fragility", *flags, "--tokens", 99, "--against", "fp16")
    assert (code, out) == (2, "")
    assert "holds another run; give another --file" in err

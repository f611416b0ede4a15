"""precision: what the experiments print and write, and how they end."""

import json
import signal
import subprocess

import pytest

from tests.train.runs import tiny_recipe, write_text
from xplm.cli import precision_fragility, precision_search, precision_sweep, precision_train
from xplm.cli.flags import WhereFlags
from xplm.cli.output import Output, OutputFlags
from xplm.errors import RequestError
from xplm.numerics.fragility_trial import summarise
from xplm.train.curves import can_draw
from xplm.train.recipe import to_toml

PNG = b"\x89PNG\r\n\x1a\n"
needs_matplotlib = pytest.mark.skipif(not can_draw(), reason="pictures need matplotlib")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("precision") / "text.txt", 2000)


@pytest.fixture
def peaks(monkeypatch):
    """Peaks of memory that no process has measured."""
    monkeypatch.setattr(
        precision_sweep, "measure_peaks", lambda names, *_: dict.fromkeys(names, 2**21)
    )


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(tiny_recipe(tmp_path)), encoding="utf-8")
    return path


def table(out):
    """Rows of the table by their first cell."""
    rows = [line.strip("| ").split(" | ") for line in out.stdout.splitlines() if line[:1] == "|"]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def interrupt_second_call(monkeypatch, module, name):
    """Ctrl-C where a function is called for the second time."""
    function, calls = getattr(module, name), []

    def call(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, call)


def test_a_sweep_prints_what_it_writes(xplm, tiny_directory, text, tmp_path, peaks):
    flags = ("--model", tiny_directory, "--text", text, "--characters", 100, "--window", 64)
    sweep = ("precision", "sweep", "fp32", "bf16,rope=fp8", *flags)
    out = xplm(*sweep, "--figures", tmp_path / "a.json")
    assert out.code == 0, out.stderr
    figures = json.loads((tmp_path / "a.json").read_text())
    assert (figures["tokens_in_text"], figures["tokens_read"]) == (100, 100)
    wide, narrow = figures["policies"]
    assert table(out)["fp32"][:3] == [f"{wide['perplexity']:.3f}", "0.00e+00", "100.0%"]
    assert table(out)["bf16,rope=fp8"][1] == f"{narrow['kl']:.2e}"
    assert len(narrow["drift_by_layer"]) == 3
    assert narrow["param_bytes"] * 2 == wide["param_bytes"]
    assert "100 of 100 tokens" in out.stderr

    printed = xplm(*sweep, "--json")
    assert len(printed.stdout.splitlines()) == 1
    for name in ("policy", "kl", "perplexity"):
        assert [row[name] for row in printed.json["policies"]] == [wide[name], narrow[name]]


def test_a_peak_is_measured_in_a_process_of_its_own(xplm, tiny_directory):
    out = Output(OutputFlags(quiet=True))
    peaks = precision_sweep.measure_peaks(["bf16"], 64, tiny_directory, WhereFlags(), out)
    assert peaks["bf16"] > 2**20


def test_a_measurement_that_is_killed_is_said(monkeypatch, tiny_directory):
    killed = subprocess.CompletedProcess([], -signal.SIGKILL)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: killed)
    out = Output(OutputFlags(quiet=True))
    with pytest.raises(RequestError, match=r"the memory of bf16 must be measured; signal 9 ended"):
        precision_sweep.measure_peaks(["bf16"], 64, tiny_directory, WhereFlags(), out)


def test_a_sweep_that_is_interrupted_keeps_what_it_has(
    xplm, tiny_directory, text, tmp_path, peaks, monkeypatch
):
    interrupt_second_call(monkeypatch, precision_sweep, "describe")
    flags = ("--model", tiny_directory, "--text", text, "--characters", 300, "--window", 64)
    out = xplm("precision", "sweep", "bf16", *flags, "--figures", tmp_path / "a.json")
    assert out.code == 130
    figures = json.loads((tmp_path / "a.json").read_text())
    assert (figures["tokens_read"], figures["tokens_in_text"]) == (128, 300)
    assert "stopped after 128 of 300 tokens" in out.stderr
    assert out.stdout.splitlines()[-1].startswith("| bf16")


def test_a_search_prints_a_policy_that_the_flag_takes(
    xplm, tiny_directory, text, tmp_path, monkeypatch
):
    search = (
        "precision", "search", "--model", tiny_directory, "--text", text, "--characters", 60, "--budget", 100,
        "--format", "bf16", "--part", "param", "--part", "norm",
    )  # fmt: skip
    out = xplm(*search, "--figures", tmp_path / "a.json")
    assert out.code == 0, out.stderr
    best = "fp32,param=bf16,norm=bf16"
    assert out.stdout.splitlines()[-1].startswith(f"--policy {best} ")
    figures = json.loads((tmp_path / "a.json").read_text())
    assert figures["policy"] == best
    assert [(t["policy"], t["is_kept"]) for t in figures["trials"]] == [
        ("fp32", True),
        ("fp32,param=bf16", True),
        (best, True),
    ]

    interrupt_second_call(monkeypatch, precision_search, "write_figures")
    out = xplm(*search, "--json")
    assert (out.code, out.json["policy"]) == (130, "fp32,param=bf16")
    assert "stopped; the best policy so far:" in out.stderr


def test_training_under_policies_shows_their_difference(xplm, recipe, tmp_path):
    flags = ("--steps", 5, "--figures", tmp_path / "a.json")
    out = xplm("precision", "train", recipe, "fp32", "fp16", *flags)
    assert out.code == 0, out.stderr
    wide, narrow = json.loads((tmp_path / "a.json").read_text())["policies"]
    assert (len(wide["losses"]), wide["val_loss_off_reference"]) == (5, 0.0)
    assert table(out)["fp16"][3] == f"{narrow['val_loss'] - wide['val_loss']:+.4f}"
    assert table(out)["fp16"][5] == "65536"


def test_training_that_is_interrupted_keeps_the_curves_before(xplm, recipe, monkeypatch):
    interrupt_second_call(monkeypatch, precision_train, "follow")
    out = xplm("precision", "train", recipe, "fp32", "fp16", "--steps", 2, "--json")
    assert (out.code, [row["policy"] for row in out.json["policies"]]) == (130, ["fp32"])


@needs_matplotlib
def test_pictures_are_drawn_of_broken_policies_too(
    xplm, tiny_directory, text, tmp_path, peaks, recipe
):
    flags = ("--model", tiny_directory, "--text", text, "--characters", 70, "--window", 70)
    sweep = ("precision", "sweep", "fp32", "fp4,norm=e2m1", *flags)
    assert xplm(*sweep, "--png", tmp_path / "a.png").code == 0
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)

    flags = ("--steps", 3, "--set", "schedule.lr=1e30", "--png", tmp_path / "b.png")
    out = xplm("precision", "train", recipe, "fp32", "fp16", *flags)
    assert out.code == 0, out.stderr
    assert (tmp_path / "b.png").read_bytes().startswith(PNG)


def test_fragility_goes_on_with_the_flags_that_it_was_begun_with(
    xplm, tiny_directory, text, tmp_path
):
    file = tmp_path / "batches.jsonl"
    flags = ("precision", "fragility", "--text", text, "--model", tiny_directory, "--reply", 4)
    flags += ("--batch", 2, "--other", "numpy:bf16", "--figures", file)
    out = xplm(*flags, "--tokens", 1, "--json")
    assert out.code == (0 if out.json["is_met"] else 1)
    assert out.json["tokens"] >= 1
    first = file.read_text()

    more = xplm(*flags, "--tokens", out.json["tokens"] + 1, "--json").json
    assert more["tokens"] > out.json["tokens"]
    assert file.read_text().startswith(first)
    assert summarise(precision_fragility.read_batches(file)).items() <= more.items()
    assert f"of {more['tokens']} tokens are" in xplm(*flags, "--tokens", 1).stdout

    assert "holds another run" in xplm(*flags, "--tokens", 99, "--against", "fp16").error
    for other in ("1\n", json.dumps(json.loads(first) | {"replies": [5]}) + "\n"):
        file.write_text(other)
        assert "holds another run" in xplm(*flags).error
    file.write_text("[" * 5000 + "\n")
    assert "must hold batches of this command; got: " in xplm(*flags).error


def test_a_half_written_last_line_of_figures_is_dropped(tmp_path, monkeypatch):
    batch = {"settings": {}, "others": {}, "replies": [[1]]}
    batch |= {key: [[1]] for key in ("prompts", "margin", "bound")}
    line = json.dumps(batch)
    (tmp_path / "a").write_text(f"{line}\n{line[:20]}")
    assert precision_fragility.read_batches(tmp_path / "a") == [batch]
    assert precision_fragility.read_batches(tmp_path / "none") == []
    monkeypatch.setattr(precision_fragility, "MAX_FIGURES_BYTES", 10)
    with pytest.raises(RequestError, match="at most 10 bytes"):
        precision_fragility.read_batches(tmp_path / "a")


@pytest.mark.parametrize("module", [precision_search, precision_sweep])
def test_the_threads_asked_for_are_those_of_the_reference(
    xplm, tiny_directory, text, monkeypatch, module
):
    def load_checkpoint(rt, checkpoint, **_):
        raise RequestError(f"threads: {rt.backend.threads}")

    monkeypatch.setattr(module, "load_checkpoint", load_checkpoint)
    command = ("precision", module.__name__.rpartition("_")[2])
    out = xplm(*command, "--model", tiny_directory, "--text", text, "--threads", 1)
    assert "threads: 1" in out.error


def test_the_threads_asked_for_are_those_of_every_side():
    side = precision_fragility.side_runtime("numpy:bf16", WhereFlags(threads=1))
    assert side.backend.threads == 1


def test_shares_are_of_flips_and_of_tokens():
    batch = {
        "replies": [[5, 5], [5, 5]],
        "margin": [[1.0, 1.0], [4.0, 4.0]],
        "bound": [[2.0, 2.0], [2.0, 2.0]],
        "others": {"a": {"margin": [[-1.0, 0.0], [-1.0, 0.0]], "rival": [[7, 4], [7, 9]]}},
    }
    result = summarise([batch])
    assert (result["tokens"], result["flips"]) == (4, 3)  # the last is a tie that the chosen wins
    assert (result["marked_share"], result["fragile_share"]) == (2 / 3, 0.5)
    assert not result["is_met"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sweep", "bf17"), 'got "bf17"'),
        (("sweep", "--window", "1"), "at least 2 ids"),
        (("sweep", "--window", "257"), "at most the model's context of 256; got 257"),
        (("search", "--characters", "40", "--budget", "-1"), "at least 0 nats"),
        (("search", "--characters", "40", "--part", "matmul"), "got matmul"),
        (("fragility", "--other", "torch"), 'got "torch"'),
        (("fragility", "--backend", "none"), 'no backend named "none"'),
    ],
)
def test_bad_input_is_one_line(xplm, tiny_directory, text, arguments, message):
    flags = ("--model", tiny_directory, "--text", text, "--quiet")
    assert message in xplm("precision", *arguments, *flags).error

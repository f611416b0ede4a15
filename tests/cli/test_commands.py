"""pull, convert, eval, bench, and what all commands share."""

import io
import math
import os
import subprocess
import sys
from importlib.metadata import version

import numba
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from rich.console import Console

import xplm as library
from tests.checkpoint.tiny import hf_config, random_tensors, write_gguf
from tests.cli.conftest import SEED
from tests.generate.tiny import tiny_model
from tests.paths import STORY, needs_story
from xplm.backend import PROGRESS, load_backend
from xplm.cli import progress
from xplm.cli.bench import measure_bandwidth, weight_bytes_per_token
from xplm.cli.flags import WhereFlags
from xplm.cli.output import Output, OutputFlags
from xplm.cli.places import home
from xplm.cli.threads import VARIABLES, set_threads


def test_version(xplm):
    assert xplm("--version").stdout == f"xplm {version('xplm')}\n"


@pytest.mark.parametrize(
    "command", ["generate", "chat", "pull", "convert", "eval perplexity", "bench"]
)
def test_help_gives_an_example(xplm, command):
    out = xplm(*command.split(), "--help")
    assert out.code == 0
    assert f"Example: xplm {command}" in " ".join(out.stdout.split())


def test_a_command_imports_what_it_needs_and_no_other_command():
    program = (
        "import sys; from xplm.cli.main import main; main(['pull', '--help']); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    modules = done.stdout.splitlines()[-1].split()
    assert "xplm.cli.pull" in modules
    assert not {"xplm.cli.train", "xplm.cli.parity", "numba", "matplotlib"} & set(modules)


def test_pull_prints_where_the_model_lies(xplm, tiny_directory):
    out = xplm("pull", tiny_directory)
    assert (out.code, out.stdout) == (0, f"{tiny_directory}\n")
    assert xplm("pull", tiny_directory, "--json").json["path"] == str(tiny_directory)


def test_pull_says_what_a_named_model_holds(xplm, tmp_path):
    file = tmp_path / "home/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"
    file.parent.mkdir(parents=True)
    file.touch()
    out = xplm("pull", "smollm2-135m-instruct")
    assert out.stdout == f"{file}\n"
    assert "smollm2-135m-instruct:q4_1 holds weights quantised to Q4_1" in out.stderr
    said = xplm("pull", "smollm2-135m-instruct", "--json").json
    assert (said["name"], said["stored_as"]) == ("smollm2-135m-instruct:q4_1", "Q4_1")


def test_a_fetch_shows_a_bar_at_a_terminal_and_nothing_elsewhere(monkeypatch, tmp_path):
    def pull(name, home, progress=None, index=None):
        if progress:
            progress("model.gguf", 0, None)
            progress("model.gguf", 1_000_000, 2_000_000)
        return home / name

    monkeypatch.setattr(progress, "pull", pull)
    for is_terminal, quiet in ((True, False), (False, False), (True, True)):
        screen = io.StringIO()
        out = Output(OutputFlags(quiet=quiet))
        out.stderr = Console(file=screen, force_terminal=is_terminal, width=100)
        assert progress.pull_with_progress("m", tmp_path, out) == tmp_path / "m"
        assert ("1.0/2.0 MB" in screen.getvalue()) == (is_terminal and not quiet)


def test_home_is_the_environments(monkeypatch, tmp_path):
    monkeypatch.setenv("XPLM_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.delenv("XPLM_HOME")
    assert home() is None


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 0.0), ("bf16", 2.0**-8)])
def test_convert_writes_a_directory_that_loads(xplm, tiny_directory, tmp_path, dtype, tolerance):
    target = tmp_path / "converted"
    out = xplm("convert", tiny_directory, target, "--dtype", dtype, "--json")
    assert (out.code, out.json["path"], out.json["dtype"]) == (0, str(target), dtype)
    before, after = library.load(tiny_directory).params, library.load(target).params
    for name, array in before.items():
        # Rounding to nearest is off by half a unit in the last place: 2^-9 of a number in bfloat16.
        np.testing.assert_allclose(after[name], array, rtol=tolerance, atol=0)


@pytest.mark.parametrize("name", ["out.gguf", "OUT.GGUF"])
def test_convert_refuses_to_write_a_gguf_file(xplm, tmp_path, name):
    error = xplm("convert", "org/not-on-this-machine", tmp_path / name).error
    assert "written as a Hugging Face directory" in error
    assert "no GGUF files yet" in error


def test_convert_says_how_weights_were_stored(xplm, tmp_path):
    config = hf_config()
    path = write_gguf(tmp_path / "m.gguf", config, random_tensors(config), Kind.Q4_1)
    out = xplm("convert", path, tmp_path / "out")
    assert f"{path} holds weights quantised to Q4_1; " in out.stderr
    assert "what they decode to, in bf16" in out.stderr


def test_convert_overwrites_nothing(xplm, tiny_directory, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    assert "must not exist yet" in xplm("convert", tiny_directory, tmp_path).error
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_perplexity(xplm, tiny_directory, tmp_path, source):
    text = "Once upon a time there was a test. " * 4
    (tmp_path / "text.txt").write_text(text)
    flags = ("--text", tmp_path / "text.txt" if source == "file" else "-", "--window", 64)
    out = xplm("eval", "perplexity", "--model", tiny_directory, *flags, "--json", stdin=text)

    lm = tiny_model(SEED)
    ids = lm.tokenizer.encode(text)
    logprobs = []
    for start in range(0, len(ids), 64):
        window = ids[start : start + 64]
        logits = lm.logits(window).astype(np.float64)
        probs = np.exp(logits - logits.max(-1, keepdims=True))
        probs /= probs.sum(-1, keepdims=True)
        logprobs += [math.log(probs[t, window[t + 1]]) for t in range(len(window) - 1)]
    assert out.json["tokens"] == len(logprobs)
    # The library's exponentials are float32: off by 1e-7 each, and by less in the mean.
    assert (out.json["window"], out.json["text_tokens"]) == (64, len(ids))
    assert out.json["perplexity"] == pytest.approx(math.exp(-np.mean(logprobs)), rel=1e-5)


def test_bench_measures_each_part(xplm, tiny_directory):
    flags = ("--prompt-tokens", 16, "--new-tokens", 4, "--repeats", 2)
    out = xplm("bench", "--model", tiny_directory, *flags, "--policy", "bf16", "--json")
    assert out.code == 0
    assert len(out.json["runs"]) == 2
    keys = ("prefill_tokens_per_s", "decode_tokens_per_s", "load_seconds", "peak_memory_bytes")
    assert all(out.json[key] > 0 for key in (*keys, "predicted_peak_memory_bytes"))
    share = out.json["weight_bytes_per_token"] * out.json["decode_tokens_per_s"]
    assert out.json["bandwidth_share"] == pytest.approx(share / out.json["bandwidth_bytes_per_s"])
    assert out.json["policy"] == "bf16"
    assert sum(rate["is_chosen"] for rate in out.json["products"]) >= 1
    copies = out.json["transfers_per_token"]  # the id, its slot, cosines and sines; its logits
    assert (copies["to_device"], copies["to_host"]) == (4, 1)
    lines = xplm(
        "bench", "--model", tiny_directory, *flags, "--blas", "openblas"
    ).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [
        "load",
        "prefill",
        "decode",
        "limit",
        "products",
        "memory",
        "copies",
    ]


def test_weight_bytes_leave_out_an_embedding_that_is_only_looked_up():
    untied, tied = tiny_model(), tiny_model(tie_word_embeddings=True)
    numbers = sum(array.size for array in tied.params.values())  # its table is the head too
    assert weight_bytes_per_token(tied) == weight_bytes_per_token(untied) == numbers * 4
    assert weight_bytes_per_token(tiny_model(policy="bf16")) == numbers * 2


def test_bandwidth_is_that_of_a_computer():
    # Memory has read between 1 and 10,000 GB/s for twenty years, and caches not much more.
    assert 1e8 < measure_bandwidth(load_backend("numpy"), (4096, 1024)) < 1e13


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["generate", "hi", "--threads", "3"], "3"),
        (["generate", "--threads=3", "hi"], "3"),
        (["generate", "--threads", "1", "--threads", "3"], "3"),
        (["generate", "hi"], "7"),
        (["generate", "--", "--threads", "3"], "7"),
        *((["generate", "--threads", *words], "7") for words in ([], ["0"], ["-1"], ["x"], ["+3"])),
        (["generate", "--threads", "9" * 5000], "7"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_flag_is_heard_before_numpy_is_imported(monkeypatch, arguments, expected):
    for name in VARIABLES:
        monkeypatch.setenv(name, "7")
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "numpy")
        set_threads(arguments)
    assert [os.environ[name] for name in VARIABLES] == [expected] * len(VARIABLES)


def test_the_flag_is_not_heard_where_numpy_has_read_its_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, "7")
    set_threads(["generate", "--threads", "3"])
    assert [os.environ[name] for name in VARIABLES] == ["7"] * len(VARIABLES)


def test_the_flag_is_held_while_the_model_computes_and_leaves_nothing():
    most = numba.config.NUMBA_NUM_THREADS
    before, environment = numba.get_num_threads(), dict(os.environ)
    for threads in {1, most}:
        rt = WhereFlags(threads=threads).runtime("fp32")
        with rt.backend.computing():
            assert numba.get_num_threads() == threads
        assert numba.get_num_threads() == before
    assert os.environ == environment


def test_more_threads_than_there_are_is_one_line(xplm):
    assert "threads must be an integer from 1 to" in xplm("bench", "--threads", 1024).error


def test_a_command_called_from_python_leaves_loggers_as_they_were(xplm, tiny_directory):
    before = PROGRESS.level, list(PROGRESS.handlers)
    assert xplm("generate", "hi", "--model", tiny_directory, "--max-new-tokens", 1).code == 0
    assert (PROGRESS.level, PROGRESS.handlers) == before


@needs_story
def test_bench_of_the_story_model_in_portable_kernels(xplm):
    flags = ("--kernels", "portable", "--prompt-tokens", 32, "--new-tokens", 8, "--repeats", 1)
    out = xplm("bench", "--model", STORY, *flags, "--json")
    assert out.json["kernels"] == "portable"

"""Commands on a machine that has too little memory: one line each, and nothing is computed."""

import resource
import subprocess
import sys

import pytest

import xplm.cli.input as input_module
from tests.cli.conftest import write_tiny
from tests.generate.tiny import tiny_model
from tests.train.runs import write_text
from xplm.backend import DeviceMemory
from xplm.errors import OutOfMemoryError, RequestError
from xplm.generate.memory import count_weights, plan_generation
from xplm.models.decoder import param_specs
from xplm.params import count_params


@pytest.fixture
def free(monkeypatch):
    """Set what the machine has free."""

    def give(n_bytes):
        monkeypatch.setattr("xplm.host_memory.free_memory", lambda: n_bytes)

    return give


@pytest.fixture(scope="module")
def long_directory(tmp_path_factory):
    """A tiny model with a context of a million tokens."""
    return write_tiny(tmp_path_factory.mktemp("long") / "long", max_position_embeddings=10**6)


def weights(lm):
    return count_weights(lm.rt, lm.config)


@pytest.mark.parametrize(
    "arguments",
    [("generate", "x"), ("chat",), ("eval", "perplexity", "--text", "-"), ("bench",)],
)
def test_a_model_beyond_free_memory_is_not_loaded(xplm, tiny_directory, free, arguments):
    lm = tiny_model()
    free(weights(lm) - 1)
    error = xplm(*arguments, "--model", tiny_directory, stdin="some text").error
    n_params = count_params(param_specs(lm.config))
    assert f"{n_params:,} parameters in float32 must fit the free memory of cpu" in error


def test_a_long_reply_is_held_against_free_memory(xplm, long_directory, free):
    free(64 * 2**20)
    flags = ("--model", long_directory, "--max-new-tokens", 10**6)
    error = xplm("generate", "x", *flags).error
    assert "activations of 1 x 1000000 tokens must fit the free memory of cpu, 64.0 MiB" in error
    assert "ask for fewer new tokens" in error
    assert xplm("generate", "x", "--model", long_directory, "--max-new-tokens", 4).code == 0


def test_a_batch_and_its_beams_are_held_against_free_memory(free):
    lm = tiny_model()
    one = lm.generate([3, 4], max_new_tokens=4).token_ids
    free(2**20)
    assert lm.generate([[3, 4]] * 2, max_new_tokens=4)[1].token_ids == one
    with pytest.raises(OutOfMemoryError, match="of 500 x 256 tokens must fit"):
        lm.generate([[3, 4]] * 500, max_new_tokens=254)
    with pytest.raises(OutOfMemoryError, match="of 500 x 256 tokens must fit"):
        lm.generate([3, 4], max_new_tokens=254, num_beams=500)


def test_a_chat_counts_the_cache_that_it_has_once(free):
    lm = tiny_model(max_position_embeddings=4096)
    chat = lm.chat()
    n_prompt = chat.send("x", max_new_tokens=2000).prompt_tokens
    chat.rollback()
    sizes = {"prompt_tokens": n_prompt, "new_tokens": 2000}
    parts = plan_generation(lm.engine, DeviceMemory(0, 0, 0), **sizes).peak.parts
    free(parts["activations"] + parts["logits"] + parts["cache"] - 1)
    chat.send("x", max_new_tokens=2000)
    with pytest.raises(OutOfMemoryError):
        lm.chat().send("x", max_new_tokens=2000)


@pytest.mark.parametrize("window", [2, 256])
def test_windows_are_held_against_free_memory(free, window):
    lm = tiny_model()
    needed = 3 * window * lm.config.vocab_size * 4  # float32 logits, twice more on the host
    free(4 * needed)
    lm.perplexity([5] * 300, window=window)
    free(needed - 1)
    with pytest.raises(OutOfMemoryError, match=f"the logits of {window} positions"):
        lm.perplexity([5] * 300, window=window)
    free(window * lm.config.vocab_size * 4 - 1)
    with pytest.raises(OutOfMemoryError):
        lm.logits([5] * window)


@pytest.mark.parametrize(
    "flags",
    [("--set", "model.hidden_size=1000000"), ("--set", "batch_size=1000000000")],
)
def test_bench_train_is_refused_before_it_computes(xplm, flags):
    error = xplm("bench", "--train", "gpt", *flags).error
    assert "must fit the free memory of cpu" in error
    assert "iB; lower " in error


@pytest.mark.parametrize("mode", [(), ("--dry-run",)])
def test_train_is_refused_before_it_reads(xplm, tmp_path, mode):
    (tmp_path / "recipe.toml").write_text('[data]\ntokenizer = "bpe"\nvocab_size = 300\n')
    text = write_text(tmp_path / "text.txt")
    flags = ("--data", text, "--out", tmp_path / "run", "--steps", 1, *mode)
    error = xplm(
        "train", tmp_path / "recipe.toml", *flags, "--set", "data.batch_size=10000000"
    ).error
    assert "arrays of a training step (10,000,000 x 64 tokens" in error
    assert not (tmp_path / "run").exists()


def test_a_memory_error_from_anywhere_is_one_line(xplm, tiny_directory, monkeypatch):
    def fail(*arguments, **options):
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr("xplm.cli.generate.read_prompts", fail)
    error = xplm("generate", "--model", tiny_directory, "x").error
    assert "got: Unable to allocate 9 GiB; " in error
    assert error.endswith("are free; ask for less, or free memory")


def test_an_allocation_that_fails_in_a_reply_is_one_line(monkeypatch):
    lm = tiny_model()

    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr("xplm.generate.engine.decoder.forward", fail)
    for call in (lm.generate, lm.chat().send, lm.logits):
        with pytest.raises(OutOfMemoryError, match="got: an allocation that failed; "):
            call([5, 6] if call == lm.logits else "some text")


@pytest.mark.parametrize(("source", "flags"), [("argument", ()), ("stdin", ("--chat",))])
def test_a_prompt_far_beyond_the_context_is_not_tokenised(xplm, tiny_directory, source, flags):
    text = "x" * 300_000  # the context is 256 tokens
    given = {"stdin": text} if source == "stdin" else {}
    prompts = [text] if source == "argument" else []
    error = xplm("generate", *prompts, *flags, "--model", tiny_directory, **given).error
    assert "must fit the model's context of 256 tokens; got 300,0" in error
    fragility = xplm("generate", "x" * 300_000, "--fragility", "--model", tiny_directory).error
    assert "must fit the model's context of 256 tokens; got 300,000 characters" in fragility


def test_stdin_ends_somewhere(xplm, tiny_directory, monkeypatch):
    monkeypatch.setattr(input_module, "MAX_PROMPT_BYTES", 100)
    assert xplm("generate", "--model", tiny_directory, stdin="x" * 100).code == 0
    error = xplm("generate", "--model", tiny_directory, stdin="x" * 101).error
    assert "at most 100 B; stdin holds more" in error
    monkeypatch.setattr("xplm.cli.messages.MAX_MESSAGE_CHARS", 100)
    assert (
        "at most 100 characters" in xplm("chat", "--model", tiny_directory, stdin="x" * 101).error
    )


def test_a_text_has_to_fit_the_free_memory(tmp_path, free):
    path = tmp_path / "text.txt"
    path.write_text("x" * 1000)
    free(8000)
    assert len(input_module.read_text(str(path))) == 1000
    free(7999)
    with pytest.raises(RequestError, match=r"text\.txt holds more; shorten it"):
        input_module.read_text(str(path))


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="limits address space, as Linux counts it")
@pytest.mark.parametrize("mib", [400, 600])
def test_a_process_with_little_address_space_ends_in_one_line(tmp_path, mib):
    path = write_tiny(tmp_path / "wide", hidden_size=1024, intermediate_size=16384)  # 430 MB
    command = [
        sys.executable,
        "-m",
        "xplm",
        "generate",
        "x",
        "--model",
        str(path),
        "--threads",
        "1",
    ]
    limit = (mib * 2**20,) * 2
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "memory" in line


@pytest.mark.nightly
def test_a_huge_prompt_costs_little_more_than_its_text(tiny_directory, tmp_path):
    prompt = tmp_path / "prompt"
    prompt.write_text("The cat sat on the mat. " * (2 * 10**8 // 24))
    script = f"""
from xplm.cli.main import main
from xplm.host_memory import host_memory
print(main(["generate", "--model", "{tiny_directory}"]), host_memory().peak)
"""
    command = [sys.executable, "-c", script]
    with prompt.open() as stdin:
        done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=True)
    assert "context of 256 tokens; got 199,999,992 characters; shorten it" in done.stderr
    code, peak = map(int, done.stdout.split())
    assert code == 2
    assert peak < 10**9  # its bytes, its characters, and the libraries

import os
import signal
import subprocess
import sys

import pytest

from tests.cli.conftest import SEED, write_tiny
from tests.generate.tiny import tiny_model
from tests.paths import STORY, needs_story
from xplm.generate.engine import Engine


@pytest.fixture(scope="module")
def lm():
    return tiny_model(SEED)


def interrupt_at(monkeypatch, call):
    """Have the forward pass of that number end as Ctrl-C ends it."""
    read, calls = Engine.read, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return read(*arguments, **options)

    monkeypatch.setattr(Engine, "read", interrupted)


def test_text_goes_to_stdout_and_timings_to_stderr(xplm, tiny_directory, lm):
    out = xplm("generate", "--model", tiny_directory, "Once", "--max-new-tokens", 8)
    assert (out.code, out.stdout) == (0, lm.generate("Once", max_new_tokens=8).text + "\n")
    assert "tokens/s" in out.stderr
    assert len(out.stderr.splitlines()) == 1


def test_quiet_leaves_stderr_empty(xplm, tiny_directory):
    out = xplm("generate", "--model", tiny_directory, "Once", "--max-new-tokens", 2, "--quiet")
    assert (out.code, out.stderr) == (0, "")


def test_json_is_all_of_stdout(xplm, tiny_directory, lm):
    out = xplm("generate", "--model", tiny_directory, "Once", "--max-new-tokens", 4, "--json")
    expected = lm.generate("Once", max_new_tokens=4)
    assert len(out.stdout.splitlines()) == 1
    assert out.json["text"] == expected.text
    assert out.json["token_ids"] == expected.token_ids
    assert out.json["finish_reason"] == "length"
    assert out.json["timings"]["decode_tokens"] == 3


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (["Once"], ""),
        (["--prompt", "Once"], ""),
        (["-"], "Once\n"),
        ([], "Once\n"),
    ],
)
def test_a_prompt_comes_as_an_argument_a_flag_or_stdin(xplm, tiny_directory, lm, arguments, stdin):
    out = xplm("generate", "--model", tiny_directory, "--json", *arguments, stdin=stdin)
    assert out.json["token_ids"] == lm.generate("Once").token_ids


def test_several_prompts_are_a_batch(xplm, tiny_directory, lm):
    flags = ("--model", tiny_directory, "--max-new-tokens", 3)
    texts = [reply.text for reply in lm.generate(["Once", "Upon a"], max_new_tokens=3)]
    assert xplm("generate", *flags, "Once", "Upon a").stdout == "\n".join(texts) + "\n"
    out = xplm("generate", *flags, "Once", "--prompt", "Upon a", "--json")
    assert sorted(reply["text"] for reply in out.json["generations"]) == sorted(texts)


def test_chat_renders_the_template(xplm, tiny_directory, lm):
    flags = ("--model", tiny_directory, "--max-new-tokens", 5, "--json", "--chat")
    out = xplm("generate", *flags, "--system", "Be kind.", "Hello")
    assert out.json["token_ids"] == lm.chat("Be kind.").send("Hello", max_new_tokens=5).token_ids
    both = xplm("generate", *flags, "Hello", "Bye").json["generations"]
    assert [reply["token_ids"] for reply in both] == [
        lm.chat().send(text, max_new_tokens=5).token_ids for text in ("Hello", "Bye")
    ]


def test_sampling_flags_reach_the_sampler(xplm, tiny_directory, lm):
    options = {
        "max_new_tokens": 12,
        "temperature": 0.9,
        "top_k": 50,
        "top_p": 0.9,
        "min_p": 0.01,
        "repetition_penalty": 1.1,
        "seed": 7,
    }
    flags = [
        word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)
    ]
    out = xplm("generate", "--model", tiny_directory, "Once", "--json", *flags)
    assert out.json["token_ids"] == lm.generate("Once", **options).token_ids


def test_stop_texts_and_beams(xplm, tiny_directory, lm):
    text = lm.generate("Once", max_new_tokens=20).text
    stop = text[5:7]
    out = xplm("generate", "--model", tiny_directory, "Once", "--json", "--stop", stop)
    assert out.json["text"] == text[: text.index(stop)]
    out = xplm(
        "generate",
        "--model",
        tiny_directory,
        "Once",
        "--json",
        "--num-beams",
        3,
        "--max-new-tokens",
        5,
    )
    assert out.json["token_ids"] == lm.generate("Once", num_beams=3, max_new_tokens=5).token_ids


def test_an_interrupt_prints_what_there_is(xplm, tiny_directory, lm, monkeypatch):
    whole = lm.generate("Once").text
    interrupt_at(monkeypatch, 20)
    out = xplm("generate", "--model", tiny_directory, "Once")
    assert out.code == 130
    assert out.stdout.endswith("\n")
    assert 5 < len(out.stdout[:-1]) < len(whole)
    assert whole.startswith(out.stdout[:-1])
    assert out.stderr == ""


LISTENING = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
runpy.run_module("xplm", run_name="__main__", alter_sys=True)
"""


def test_ctrl_c_ends_the_process_cleanly(tmp_path):
    path = write_tiny(tmp_path / "endless", max_position_embeddings=100_000)
    command = [sys.executable, "-c", LISTENING, "generate", "--model", str(path), "Once"]
    with subprocess.Popen(
        [*command, "--max-new-tokens", "50000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        assert first
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, b"")


@needs_story
def test_the_story_model_tells_its_story(xplm):
    out = xplm("generate", "--model", STORY, "Once upon a time", "--max-new-tokens", 20)
    assert out.stdout.startswith(", a little girl named Lily lived in a small house")


def test_a_context_of_ones_own_limits_the_prompt_or_is_warned_of(xplm, tiny_directory, caplog):
    given = ("generate", "--model", tiny_directory, "Once", "--max-new-tokens", 1)
    assert "context of 2 tokens" in xplm(*given, "--context", 2).error
    assert not caplog.records
    assert xplm(*given, "--context", 257).code == 0
    assert "above the 256 positions" in caplog.text

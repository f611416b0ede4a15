"""Thoughts on the command line: on stderr, or under a name of their own."""

import json

import pytest

from tests.cli.conftest import write_tiny
from tests.cli.test_generate import interrupt_at
from tests.generate.thinkers import FORMS, HARMONY, saying

TAGGED = FORMS["tags, tokens of the text"]
REPLY = "<think>\nTwo and two.\n</think>\n\nFour."


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = write_tiny(tmp_path_factory.mktemp("thinking") / "tiny", vocab_size=300)
    TAGGED.save(path)
    return path


@pytest.mark.parametrize("command", [("chat",), ("generate", "--chat", "2 + 2?")])
def test_thoughts_go_to_stderr_and_the_answer_to_stdout(xplm, directory, command):
    flags = (*command, "--model", directory)
    with saying(TAGGED, REPLY):
        out = xplm(*flags, stdin="2 + 2?\n")
    assert (out.code, out.stdout) == (0, "Four.\n")
    assert "Two and two.\n\n" in out.stderr
    with saying(TAGGED, REPLY):
        out = xplm(*flags, "--quiet", stdin="2 + 2?\n")
    assert (out.stdout, out.stderr) == ("Four.\n", "")


def test_json_has_thoughts_under_their_own_name(xplm, directory):
    with saying(TAGGED, REPLY):
        out = xplm("generate", "--model", directory, "--chat", "2 + 2?", "--json")
    assert (out.json["text"], out.json["reasoning"], out.json["calls"]) == (
        "Four.",
        "Two and two.",
        [],
    )
    with saying(TAGGED, REPLY):
        out = xplm("chat", "--model", directory, "--json", stdin="2 + 2?\n")
    assert out.json["messages"][-1] == {
        "role": "assistant", "content": "Four.", "reasoning_content": "Two and two.",
    }  # fmt: skip


def test_a_call_is_shown_apart(xplm, tmp_path):
    tokenizer = FORMS["channels"]
    path = write_tiny(tmp_path / "tiny", vocab_size=300)
    tokenizer.save(path)
    config = json.loads((path / "generation_config.json").read_text())
    ends = [1, tokenizer.special_token_ids[HARMONY[-1]]]
    (path / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": ends}))
    call = "<|channel|>commentary to=functions.f <|message|>{}<|call|>"
    with saying(tokenizer, call):
        out = xplm("generate", "--model", path, "--chat", "Call f.")
    assert (out.stdout, "functions.f {}" in out.stderr) == ("\n", True)
    with saying(tokenizer, call):
        out = xplm("generate", "--model", path, "--chat", "Call f.", "--json")
    assert out.json["calls"] == [{"recipient": "functions.f", "text": "{}"}]


def test_an_answer_stopped_or_cut_while_thinking(xplm, directory, monkeypatch):
    flags = ("chat", "--model", directory, "--json")
    with saying(TAGGED, REPLY):
        out = xplm(*flags, "--max-new-tokens", 6, stdin="2 + 2?\n")
    assert "[cut while thinking after 6 tokens" in out.stderr
    interrupt_at(monkeypatch, 8)
    with saying(TAGGED, REPLY):
        out = xplm(*flags, stdin="2 + 2?\n/keep\n", typed=True)
    assert "kept; /rollback takes it back" in out.stderr
    assert out.json["messages"][-1] == {
        "role": "assistant", "content": "", "reasoning_content": "Two a",
    }  # fmt: skip


def test_the_fragile_tokens_of_a_reply_with_thoughts_are_those_of_all_its_text(xplm, directory):
    with saying(TAGGED, REPLY):
        out = xplm("generate", "--model", directory, "--chat", "2 + 2?", "--fragility")
    assert out.code == 0, out.stderr
    assert "<think>" in out.stdout.replace("[", "").replace("]", "")

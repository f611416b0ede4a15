import json

import pytest

from tests.cli.conftest import SEED
from tests.cli.test_generate import interrupt_at
from tests.generate.tiny import tiny_model


@pytest.fixture(scope="module")
def lm():
    return tiny_model(SEED)


@pytest.fixture
def talk(xplm, tiny_directory):
    """Run a chat over a pipe; --json gives the messages that it ends with."""

    def run(*lines, flags=("--json",), typed=False):
        flags = ("--model", tiny_directory, "--max-new-tokens", 6, *flags)
        return xplm("chat", *flags, stdin="".join(f"{line}\n" for line in lines), typed=typed)

    return run


def messages(out):
    assert out.code == 0, out.stderr
    return [(message["role"], message["content"]) for message in out.json["messages"]]


def test_answers_are_those_of_the_python_session(talk, lm):
    chat = lm.chat("Be kind.")
    replies = [chat.send(text, max_new_tokens=6).text for text in ("Hello", "And you?")]
    out = talk("Hello", "", "And you?", flags=("--system", "Be kind."))
    assert out.stdout == "".join(reply + "\n" for reply in replies)
    assert messages(talk("Hello", "And you?", flags=("--json", "--system", "Be kind."))) == [
        (message["role"], message["content"]) for message in chat.messages
    ]


def test_rollback_then_send_is_never_having_sent(talk):
    assert messages(talk("One", "Two", "/rollback", "Three")) == messages(talk("One", "Three"))
    assert messages(talk("One", "Two", "/rollback 2")) == []


def test_fork_leaves_the_first_branch_as_it_was(talk):
    assert messages(talk("One", "/fork", "Two", "/fork 1")) == messages(talk("One"))
    assert messages(talk("One", "/fork", "Two", "/fork 1", "/fork 2")) == messages(
        talk("One", "Two")
    )


def test_save_and_load(talk, tmp_path):
    path = tmp_path / "a chat.json"
    saved = messages(talk("One", f"/save {path}", "Two"))[:2]
    assert [tuple(m.values()) for m in json.loads(path.read_text())["messages"]] == saved
    assert messages(talk("Nine", f"/load {path}")) == saved
    assert messages(talk(f"/load {path}", "Two")) == messages(talk("One", "Two"))


def test_system_clear_help_and_exit(talk):
    assert messages(talk("One", "/clear", "/system Be brief.")) == [("system", "Be brief.")]
    assert messages(talk("/system Be brief.", "/system")) == []
    assert messages(talk("/exit", "One")) == []
    assert "/rollback [N]" in talk("/help", flags=()).stdout


@pytest.mark.parametrize(
    ("line", "fragment"),
    [
        ("/nonesuch", 'no command "/nonesuch"'),
        ("/rollback 1", "0 turns to take back; got 1"),
        ("/rollback x", 'a number of at most 9 digits is needed, such as 1; got "x"'),
        ("/rollback " + "9" * 5000, "a number of at most 9 digits is needed"),
        ("/fork 9", "there are branches 1 to 1; got 9"),
        ("/save", "a file name is needed"),
        ("/load /nonesuch/chat.json", "No such file"),
        ("/save /nonesuch/chat.json", "No such file"),
        ("x" * 300, "the model's context of 256"),
    ],
)
def test_a_bad_line_of_a_pipe_ends_it(talk, line, fragment):
    assert fragment in talk(line).error


def test_a_bad_line_at_a_terminal_loses_nothing(talk):
    out = talk("One", "/rollback 5", "/nonesuch", "/load /nonesuch", "Two", typed=True)
    errors = [line for line in out.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    assert [role for role, _ in messages(out)] == ["user", "assistant"] * 2


def test_an_interrupt_ends_the_answer_and_not_the_chat(talk, monkeypatch):
    interrupt_at(monkeypatch, 3)
    out = talk("One", "Two", typed=True)
    assert "stopped; the turn is not kept" in out.stderr
    assert messages(out)[0] == ("user", "Two")


def test_an_interrupt_ends_a_chat_over_a_pipe(talk, monkeypatch):
    interrupt_at(monkeypatch, 3)
    out = talk("One", "Two", flags=("--quiet",))
    assert (out.code, out.stderr) == (130, "")
    assert 0 < len(out.stdout.strip()) < 6


def test_a_failed_save_at_a_terminal_loses_nothing(talk, tmp_path):
    (tmp_path / "file").touch()
    bad = ["/save .", "/save /", f"/save {tmp_path}/file/x", "/save " + "x" * 300]
    out = talk("One", *bad, "Two", typed=True)
    errors = [line for line in out.stderr.splitlines() if line.startswith("error: cannot write")]
    assert len(errors) == len(bad)
    assert [role for role, _ in messages(out)] == ["user", "assistant"] * 2

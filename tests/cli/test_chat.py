import json
import time

import pytest

from tests.cli.conftest import SEED, write_tiny
from tests.cli.pseudo_terminal import PASTE_BEGIN, PASTE_END, at_terminal
from tests.cli.test_generate import interrupt_at
from tests.generate.tiny import tiny_model
from xplm.cli.conversation import Conversation
from xplm.cli.messages import Entry, Kind
from xplm.cli.output import Output, OutputFlags


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


def test_a_block_and_a_continued_line_are_one_message_each(talk):
    out = talk('"""', "/help", "", "and more", '"""', "One \\", "Two")
    assert [text for role, text in messages(out) if role == "user"] == [
        "/help\n\nand more", "One \nTwo",
    ]  # fmt: skip


def test_two_slashes_send_one(talk):
    assert messages(talk("//usr/bin"))[0] == ("user", "/usr/bin")
    assert "// at the start sends" in talk("/usr/bin").error


@pytest.fixture
def conversation(lm):
    options = {"max_new_tokens": 2}
    return Conversation(lm.chat(), options, Output(OutputFlags(quiet=True)), True)


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("/usr/bin: error\nno such file", "/usr/bin: error\nno such file"),
        ("// a comment\nint x;", "// a comment\nint x;"),
        ("/system Be kind.\nAlways.", None),
    ],
)
def test_a_paste_is_a_message_unless_it_starts_with_a_command(conversation, text, sent):
    assert conversation.take(Entry(text, Kind.PASTED))
    users = [m["content"] for m in conversation.chat.messages if m["role"] == "user"]
    assert users == ([] if sent is None else [sent])
    assert conversation.chat.system == (None if sent else "Be kind.\nAlways.")


@pytest.mark.parametrize("line", ["/clear all", "/help me", "/keep it", "/exit now"])
def test_what_a_command_does_not_take_is_refused(talk, line):
    assert "takes nothing after it" in talk(line).error


def test_json_has_what_was_answered_before_an_error(talk):
    out = talk("One", "/nonesuch", "Two")
    assert out.code == 2
    assert out.stderr.splitlines()[-1].startswith('error: no command "/nonesuch"')
    assert out.json["messages"] == talk("One").json["messages"]
    assert out.json["finish_reasons"] == ["length"]


def test_json_has_what_was_answered_before_an_interrupt(talk, monkeypatch):
    interrupt_at(monkeypatch, 12)
    out = talk("One", "Two", "Three")
    assert out.code == 130
    assert [message["role"] for message in out.json["messages"]] == ["user", "assistant"]
    assert out.json["unfinished"]["user"] == "Two"
    assert out.json["unfinished"]["assistant"]


def test_an_answer_that_was_stopped_can_be_kept(talk, monkeypatch):
    interrupt_at(monkeypatch, 4)
    out = talk("One", "/keep", "Two", typed=True)
    assert "not kept unless you enter /keep before the next message" in out.stderr
    assert [role for role, _ in messages(out)] == ["user", "assistant"] * 2
    kept = messages(out)[1][1]
    assert kept
    assert messages(talk("One"))[1][1].startswith(kept)
    assert out.json["finish_reasons"] == [None, "length"]


@pytest.mark.parametrize("between", ["/rollback 0", "/clear", "Two"])
def test_an_answer_that_was_stopped_is_dropped_by_what_comes_next(talk, monkeypatch, between):
    interrupt_at(monkeypatch, 4)
    out = talk("One", between, "/keep", typed=True)
    assert "error: /keep needs an answer that Ctrl-C has just stopped" in out.stderr
    assert "One" not in [text for _, text in messages(out)]


def test_an_answer_that_was_cut_is_marked(talk):
    assert "[cut after 6 tokens, the limit of --max-new-tokens]" in talk("One").stderr
    assert talk("One", flags=("--quiet",)).stderr == ""


def test_a_full_context_names_the_ways_out(talk):
    room = "/rollback takes turns back, /clear forgets all"
    out = talk("One", flags=("--json", "--max-new-tokens", 1000))
    assert f"[cut: the context of 256 tokens is full; {room}]" in out.stderr
    out = talk("One", "x" * 240, "Two", "/rollback", "Two", typed=True)
    (error,) = [line for line in out.stderr.splitlines() if line.startswith("error: ")]
    assert error.endswith(f"shorten it, or make room: {room}")
    assert messages(out) == messages(talk("One", "Two", "/rollback", "Two"))


def test_the_history_is_left_alone_where_nothing_is_typed(talk, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert messages(talk("One", typed=True))
    assert list(tmp_path.glob("xplm*")) == []


@pytest.mark.nightly
def test_a_whole_conversation_at_a_terminal(tmp_path):
    path = write_tiny(tmp_path / "endless", max_position_embeddings=100_000)
    command = ["-m", "xplm", "chat", "--model", str(path), "--max-new-tokens", "50000", "--json"]
    with at_terminal(command, {"XDG_STATE_HOME": str(tmp_path)}) as terminal:
        terminal.wait_for("sampling: greedy")
        terminal.wait_for("> ")
        terminal.send(f"{PASTE_BEGIN}two\rlines{PASTE_END}\r")
        terminal.wait_for("\x1b[?2004l")  # Enter has been taken
        time.sleep(2)  # into the answer, of which --json shows nothing
        terminal.send("\x03")
        terminal.wait_for("/keep")
        terminal.send("/keep\r")
        terminal.wait_for("kept")
        terminal.wait_for("> ")
        terminal.send("\x04")
        terminal.wait_for('"user", "content": "two\\nlines"')
    (kept,) = tmp_path.glob("xplm/chat_history.jsonl")
    assert kept.read_text().splitlines() == ['"two\\nlines"', '"/keep"']

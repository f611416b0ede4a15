"""What was typed in earlier conversations."""

import os
import sys

import pytest

from xplm.cli import history
from xplm.cli.history import History
from xplm.errors import RequestError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no readline, so no history")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "xplm" / "chat_history.jsonl"


def test_entries_come_back_and_are_the_users_alone(path):
    assert History(path).load() == []
    for entry in ("one", "two\nlines", "two\nlines", "你好 \u2028 \\"):
        History(path).add(entry)
    assert History(path).load() == ["one", "two\nlines", "你好 \u2028 \\"]
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(path.parent).st_mode & 0o777 == 0o700
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_two_conversations_add_to_one_file(path):
    first, second = History(path), History(path)
    first.add("a")
    second.add("b")
    first.add("c")
    assert second.load() == ["a", "b", "c"]


def test_a_file_that_others_could_read_becomes_private(path):
    path.parent.mkdir(parents=True)
    path.write_text('"old"\n')
    path.chmod(0o644)
    History(path).add("new")
    assert History(path).load() == ["old", "new"]
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_the_oldest_and_the_long_are_left_out(path, monkeypatch):
    monkeypatch.setattr(history, "MAX_ENTRIES", 2)
    for entry in ("a", "b", "c", "x" * (history.MAX_ENTRY_CHARS + 1), "half \ud800"):
        History(path).add(entry)
    assert History(path).load() == ["b", "c"]


@pytest.mark.parametrize("content", [b"one\n", b"[1]\n", b"\xff\n", b'{"a": 1}\n'])
def test_another_file_is_refused_and_stays(path, content):
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(RequestError, match=r"chat_history\.jsonl must"):
        History(path).add("new")
    assert path.read_bytes() == content


def test_a_place_that_cannot_be_written_is_an_error_of_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="must be"):
        History(tmp_path / "file" / "chat_history.jsonl").add("a")

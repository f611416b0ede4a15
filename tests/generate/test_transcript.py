"""Conversations as files."""

import json

import pytest

from xplm.errors import RequestError
from xplm.generate.transcript import Transcript, read_transcript, write_transcript

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi 🙂"},
    {"role": "assistant", "content": "你好"},
]


def test_a_conversation_survives_the_file(tmp_path):
    path = tmp_path / "chat.json"
    write_transcript(path, MESSAGES)
    assert read_transcript(path) == Transcript("Be brief.", [("Hi 🙂", "你好", "")])
    assert json.loads(path.read_text(encoding="utf-8")) == {"messages": MESSAGES}
    assert [file.name for file in tmp_path.iterdir()] == ["chat.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    (tmp_path / "chat.json").mkdir()
    with pytest.raises(RequestError, match="cannot write"):
        write_transcript(tmp_path / "chat.json", MESSAGES)
    assert [file.name for file in tmp_path.iterdir()] == ["chat.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"messages": 3}',
        b'{"messages": [{"role": "user"}]}',
        b'{"messages": [{"role": "user", "content": "and then?"}]}',
        b'{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}',
        b'{"messages": [{"role": "user", "content": 1}, {"role": "assistant", "content": "b"}]}',
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "chat.json"
    path.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        read_transcript(path)
    assert "must" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"cannot read .*No such file"):
        read_transcript(tmp_path / "nothing.json")


@pytest.mark.parametrize("name", [".", "/", "file/x", "x" * 300, "a\0b", "half\ud800"])
def test_a_path_that_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, name):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(RequestError, match="cannot write"):
        write_transcript(tmp_path / name, MESSAGES)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "kept"


def test_a_message_that_is_no_unicode_is_refused_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "chat.json"
    write_transcript(path, MESSAGES)
    before = path.read_bytes()
    with pytest.raises(RequestError, match="must be Unicode text"):
        write_transcript(path, [{"role": "system", "content": "\udcff"}])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["chat.json"]

"""Files of every form give their documents, and long ones are cut where tokenizers cut."""

import json
from pathlib import Path

import pytest

from xplm.errors import DataError
from xplm.text.trainable import train_tokenizer
from xplm.train.data.records import Record, record_text
from xplm.train.data.sources import (
    PIECE_CHARS,
    list_files,
    read_pieces,
    read_records,
    read_texts,
)


def documents(path: Path) -> list[str]:
    """The texts at a path, put together from their pieces."""
    texts = [""]
    for piece in read_pieces(path):
        texts[-1] += piece.text
        if piece.is_last:
            texts.append("")
    assert texts.pop() == ""
    return texts


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffone\r\ntwo\n".encode())
    assert documents(file) == ["one\ntwo\n"]
    assert [record.value for record in read_records(file)] == ["one", "two"]


def test_records_are_documents_and_lose_their_end_marker(tmp_path: Path) -> None:
    records = [
        "plain",
        "with its end </s>",
        {"text": "in </s> the middle"},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        "",
    ]
    as_list, as_lines = tmp_path / "a.json", tmp_path / "a.jsonl"
    as_list.write_text(json.dumps(records), encoding="utf-8")
    as_lines.write_text("\n\n".join(map(json.dumps, records)), encoding="utf-8")
    expected = ["plain", "with its end", "in </s> the middle", "a\nb"]
    assert documents(as_list) == documents(as_lines) == expected


def test_lines_are_read_under_the_name_of_a_list_too(tmp_path: Path) -> None:
    for name in ("a.json", "a.ndjson"):
        (tmp_path / name).write_text('\n{"text": "x"}\n\n"y"\n', encoding="utf-8")
        assert documents(tmp_path / name) == ["x", "y"]


@pytest.mark.parametrize("name", ["A.JSON", "A.JSONL"])
def test_a_suffix_in_capitals_means_the_same(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('["x"]\n' if name == "A.JSON" else '"x"\n', encoding="utf-8")
    assert documents(tmp_path / name) == ["x"]


def test_a_folder_is_read_in_the_order_of_paths_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", ".hidden", ".git/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    assert [file.name for file in list_files(tmp_path)] == ["z.txt", "b.txt"]
    assert documents(tmp_path) == ["a/z.txt", "b.txt"]
    assert "".join(read_texts([tmp_path / "b.txt", tmp_path / "a"])) == "b.txta/z.txt"


def test_progress_ends_at_all_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("水" * PIECE_CHARS, encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('"x"\n"y"\n', encoding="utf-8")
    seen: list[tuple[str, int, int]] = []
    for _ in read_pieces(tmp_path, lambda *report: seen.append(report)):
        pass
    total = 3 * PIECE_CHARS + 8
    assert seen[-1] == ("reading", total, total)
    assert [report[1] for report in seen] == sorted(report[1] for report in seen)


def test_a_long_record_is_cut_as_a_long_text_is(tmp_path: Path) -> None:
    text = "One line.\nAnother\n" * PIECE_CHARS
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}), encoding="utf-8")
    for name in ("a.txt", "a.jsonl"):
        pieces = list(read_pieces(tmp_path / name))
        assert "".join(piece.text for piece in pieces) == text
        assert max(len(piece.text) for piece in pieces) <= 2 * PIECE_CHARS
        assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_pieces_have_the_tokens_of_the_whole(tmp_path: Path) -> None:
    text = "".join(f"Line {i}, it's\n{'  indented.' if i % 3 else ''}\n\n" for i in range(12_000))
    file = tmp_path / "a.txt"
    file.write_text(text, encoding="utf-8")
    pieces = [piece.text for piece in read_pieces(file)]
    assert len(pieces) > 3

    tokenizer = train_tokenizer("bpe", [text[:10_000]], vocab_size=400)
    whole = tokenizer.encode(text)
    assert [i for piece in pieces for i in tokenizer.encode(piece)] == whole


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\xff\xfe", "UTF-8"),
        ("a.json", b"{}", "JSON list"),
        ("a.json", b"[1, 2", "must hold JSON"),
        ("a.json", b'{\n"text": "a"\n}', "JSON list"),
        ("a.json", b'{"text": "a"}\n{"text"', "line 2, must hold JSON"),
        ("a.json", b"[1]", "item 1, must be a text"),
        ("a.json", b'[{"text": 3}]', "item 1, must be a text"),
        ("a.jsonl", b'"a"\nb\n', "line 2, must hold JSON"),
        ("a.jsonl", b'"\\ud800"', "lone surrogate"),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        list(read_pieces(file))
    assert str(file) in str(error.value)


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_a_path_must_hold_files(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="a file, or a folder with files"):
        list(read_pieces(tmp_path / name))


def test_the_text_of_a_chat_is_what_is_said() -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None}]
    assert record_text(Record({"messages": turns}, "here")) == "hi"

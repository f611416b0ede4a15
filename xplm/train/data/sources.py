"""Text and records out of training files, read from front to back.

    *.jsonl *.ndjson one JSON value a line
    *.json           a JSON list, or one value a line; held in memory while it is read
    any other file   UTF-8 text
    a folder         its files and its folders' files, in the order of their paths; hidden ones are left out

`xplm.train.data.records` says what a JSON value may be.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from xplm.checkpoint.untrusted import open_regular, parse_json
from xplm.errors import DataError
from xplm.progress import OnProgress, unseen
from xplm.text.pieces import Piece, document_pieces, find_cut
from xplm.train.data.records import Record, record_text

PIECE_CHARS = 2**16
MAX_LINE_CHARS = 2**26
MAX_JSON_BYTES = 2**28  # of a list, which is held in memory
RECORDS_PER_REPORT = 256


def list_files(path: Path) -> list[Path]:
    """The files to read at a path.

    Raises:
        DataError: there is none, or a JSON list is too large.
    """
    if os.path.isfile(path):
        files = [path]
    else:
        inside = path.rglob("*") if os.path.isdir(path) else ()
        found = sorted(file for file in inside if os.path.isfile(file))
        files = [f for f in found if not any(p.startswith(".") for p in f.relative_to(path).parts)]
    if not files:
        raise DataError(f"training data must be a file, or a folder with files in it; got {path}")
    for file in files:
        if file.suffix.lower() == ".json" and file.stat().st_size > MAX_JSON_BYTES:
            raise DataError(
                f"a JSON list must have at most {MAX_JSON_BYTES} bytes; {file} has more; write it as JSON lines"
            )
    return files


def read_pieces(
    path: Path, progress: OnProgress = unseen, *, of_chats: bool = False
) -> Iterator[Piece]:
    """The documents at a path, long ones in pieces, so that no text file needs to fit in memory.

    Args:
        path: a file or a folder.
        progress: told of the bytes that are read.
        of_chats: as `record_text` takes it.

    Raises:
        DataError: a file cannot be read or is malformed.
    """
    files = list_files(path)
    total = sum(file.stat().st_size for file in files)
    done = 0
    for file in files:
        with _opened(file) as stream:
            for piece in _pieces_of(stream, file, of_chats):
                yield piece
                progress("reading", done + stream.buffer.tell(), total)
        done += file.stat().st_size


def read_texts(
    paths: Iterable[Path], progress: OnProgress = unseen, *, of_chats: bool = False
) -> Iterator[str]:
    """All text at some paths, in pieces: what a tokenizer is trained on; see `read_pieces`.

    Raises:
        DataError: a file cannot be read or is malformed.
    """
    for path in paths:
        for piece in read_pieces(path, progress, of_chats=of_chats):
            yield piece.text


def read_records(path: Path, progress: OnProgress = unseen) -> Iterator[Record]:
    """The values of JSON files, and the lines of text files that are not blank.

    Args:
        path: a file or a folder.
        progress: told of the bytes that are read, every so many records.

    Raises:
        DataError: a file cannot be read, or is not JSON where it should be.
    """
    files = list_files(path)
    total = sum(file.stat().st_size for file in files)
    done = 0
    for file in files:
        with _opened(file) as stream:
            for number, record in enumerate(_records_of(stream, file)):
                yield record
                if number % RECORDS_PER_REPORT == 0:
                    progress("reading", done + stream.buffer.tell(), total)
        done += file.stat().st_size
        progress("reading", done, total)


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with open_regular(path) as file, TextIOWrapper(file, encoding="utf-8-sig") as stream:
            yield stream
    except OSError as cause:
        raise DataError(f"{path} must be readable; got: {cause.strerror}") from cause
    except UnicodeDecodeError as cause:
        raise DataError(f"{path} must be UTF-8 text; got: {cause.reason}") from cause


def _pieces_of(stream: TextIO, path: Path, of_chats: bool) -> Iterator[Piece]:
    if _is_json(path):
        records = _records_of(stream, path)
        texts = (record_text(record, of_chats=of_chats) for record in records)
        for text in filter(None, texts):
            yield from document_pieces(text, PIECE_CHARS)
        return
    rest = ""
    while block := stream.read(PIECE_CHARS):
        rest += block
        cut = find_cut(rest)
        yield Piece(rest[:cut], False)
        rest = rest[cut:]
    yield Piece(rest, True)


def _records_of(stream: TextIO, path: Path) -> Iterator[Record]:
    if path.suffix.lower() == ".json":
        content = stream.read()
        if not _is_lines(content):
            values = _parse(content, str(path))
            if not isinstance(values, list):
                raise DataError(f"{path} must hold a JSON list or JSON lines; got {values!r:.80}")
            yield from (Record(value, f"{path}, item {i + 1}") for i, value in enumerate(values))
            return
        stream = StringIO(content)
    for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE_CHARS + 1), ""), 1):
        place = f"{path}, line {number}"
        if len(line) > MAX_LINE_CHARS:
            raise DataError(f"{place}, must have at most {MAX_LINE_CHARS} characters; it has more")
        if line.strip():
            value = _parse(line, place) if _is_json(path) else line.strip()
            yield Record(value, place)


def _is_json(path: Path) -> bool:
    return path.suffix.lower() in (".json", ".jsonl", ".ndjson")


def _is_lines(text: str) -> bool:
    """Whether the first of several lines is a JSON object or text by itself."""
    first, _, rest = text.lstrip().partition("\n")
    if not rest.strip():
        return False
    try:
        return isinstance(parse_json(first), dict | str)
    except ValueError:
        return False


def _parse(text: str, place: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as cause:
        raise DataError(f"{place}, must hold JSON; got: {cause}") from cause

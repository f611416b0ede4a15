"""Frames arrive whole, however the pipe cuts them."""

import os
import struct
import threading
from collections.abc import Iterator
from io import FileIO

import pytest

from xplm.text.render_protocol import MAX_BYTES, decode, encode, read_frame, write_frame


@pytest.fixture
def pipe() -> Iterator[tuple[FileIO, FileIO]]:
    reader, writer = os.pipe()
    with FileIO(reader) as read_end, FileIO(writer, "w") as write_end:
        yield read_end, write_end


@pytest.mark.parametrize("n_bytes", [0, 1, 1_000_000])  # a pipe holds some 64 KiB
def test_frames_arrive_as_they_were_sent(pipe: tuple[FileIO, FileIO], n_bytes: int) -> None:
    content = bytes(i % 251 for i in range(n_bytes))
    writer = threading.Thread(target=lambda: [write_frame(pipe[1], content) for _ in range(2)])
    writer.start()
    assert [read_frame(pipe[0]) for _ in range(2)] == [content, content]
    writer.join()


def test_a_pipe_that_ends_within_a_frame(pipe: tuple[FileIO, FileIO]) -> None:
    pipe[1].write(struct.pack(">Q", 5) + b"four")
    pipe[1].close()
    with pytest.raises(EOFError):
        read_frame(pipe[0])


def test_a_frame_that_says_it_is_too_long(pipe: tuple[FileIO, FileIO]) -> None:
    pipe[1].write(struct.pack(">Q", MAX_BYTES + 1))
    with pytest.raises(EOFError):
        read_frame(pipe[0])


@pytest.mark.parametrize("text", ["", "aé日👍\0", "\ud83d\ude00", "\udc00x"])
def test_every_text_comes_back(text: str) -> None:
    assert decode(encode(text)) == text

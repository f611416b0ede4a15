"""Ids in a file: views of it, and what happens when it is changed while it is in use."""

import os
from pathlib import Path

import numpy as np
import pytest

from xplm.errors import DataError
from xplm.train.data.token_file import TokenFile
from xplm.train.data.windows import Windows, split

IDS = np.arange(100, dtype="<u2")


@pytest.fixture
def tokens(tmp_path: Path) -> TokenFile:
    path = tmp_path / "a.bin"
    path.write_bytes(IDS.tobytes())
    return TokenFile.open(path, IDS.dtype)


@pytest.mark.parametrize(
    "place", [slice(None), slice(3, 7), slice(-5, None), slice(90, 200), slice(7, 3)]
)
def test_a_view_reads_what_a_slice_of_an_array_holds(tokens: TokenFile, place: slice) -> None:
    view = tokens[10:90][place]
    assert len(view) == len(IDS[10:90][place])
    np.testing.assert_array_equal(np.asarray(view), IDS[10:90][place], strict=True)
    assert np.asarray(view, np.int64).dtype == np.int64


def test_chunks_are_the_view_in_order(tokens: TokenFile) -> None:
    chunks = list(tokens[1:].chunks(40))
    assert [len(chunk) for chunk in chunks] == [40, 40, 19]
    np.testing.assert_array_equal(np.concatenate(chunks), IDS[1:])


def test_windows_of_a_file_are_those_of_an_array(tokens: TokenFile) -> None:
    sizes = {"context": 4, "batch_size": 3, "n_micro": 1, "seed": 7}
    in_file, in_memory = (Windows(*split(ids, 0.2), **sizes) for ids in (tokens, IDS))
    for step in range(10):
        np.testing.assert_array_equal(in_file.batch(step).ids, in_memory.batch(step).ids)
    for a, b in zip(in_file.validation(), in_memory.validation(), strict=True):
        np.testing.assert_array_equal(a.targets, b.targets)


@pytest.mark.parametrize("change", ["shorter", "longer", "other"])
def test_a_file_that_is_changed_while_it_is_read_is_one_clear_error(
    tokens: TokenFile, change: str
) -> None:
    np.asarray(tokens[:4])
    if change == "shorter":
        os.truncate(tokens.path, 8)
    elif change == "longer":
        with tokens.path.open("ab") as file:
            file.write(b"more")
    else:
        tokens.path.write_bytes(bytes(200))
        os.utime(tokens.path, (1, 1))
    with pytest.raises(DataError, match="must stay as it is while it is trained on"):
        np.asarray(tokens[50:60])


def test_a_file_that_is_replaced_is_read_as_it_was(tokens: TokenFile) -> None:
    other = tokens.path.with_suffix(".new")
    other.write_bytes(b"other")
    other.replace(tokens.path)
    np.testing.assert_array_equal(np.asarray(tokens), IDS)


@pytest.mark.parametrize("content", [b"", b"abc"])
def test_half_an_id_and_no_id_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(ValueError, match="bytes of ids"):
        TokenFile.open(tmp_path / "a.bin", IDS.dtype)

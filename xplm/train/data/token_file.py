"""Ids in a file that may be larger than memory, read a window at a time.

A file that is mapped into memory and then shortened ends the process that reads it. Here it is an error, as is a file
that is written to while it is in use.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from xplm.checkpoint.untrusted import Stamp, open_regular, read_into, take_stamp
from xplm.errors import DataError


class OpenFile:
    """The owner of an open file, which closes with the last view of it."""

    def __init__(self, file: BinaryIO) -> None:
        """Take it over."""
        self.file = file

    def __del__(self) -> None:
        """Close it."""
        self.file.close()


@dataclass(frozen=True, eq=False)
class TokenFile:
    """A view of the ids in an open file: a slice is a narrower view, `np.asarray(view)` reads it into memory.

    The file is open as long as there is a view of it, so that another process may replace it meanwhile.
    """

    path: Path  # for messages
    dtype: np.dtype[Any]  # of an id
    start: int  # the view's first id
    stop: int  # behind its last
    opened: OpenFile
    stamp: Stamp  # of when it was opened

    @classmethod
    def open(cls, path: Path, dtype: np.dtype[Any]) -> "TokenFile":
        """All ids of a file.

        Raises:
            OSError: it cannot be opened, or is not a regular file.
            ValueError: it is empty, or ends with a part of an id.
        """
        file = open_regular(path)
        stamp = take_stamp(file)
        if not stamp.n_bytes or stamp.n_bytes % dtype.itemsize:
            file.close()
            raise ValueError(f"{stamp.n_bytes} bytes of ids of {dtype.itemsize} bytes")
        return cls(path, dtype, 0, stamp.n_bytes // dtype.itemsize, OpenFile(file), stamp)

    def __len__(self) -> int:
        """Ids in the view."""
        return self.stop - self.start

    def __getitem__(self, place: slice) -> "TokenFile":
        """A narrower view of consecutive ids."""
        start, stop, step = place.indices(len(self))
        if step != 1:
            raise ValueError(f"a view has consecutive ids; got a step of {step}")
        return replace(self, start=self.start + start, stop=self.start + max(start, stop))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The view's ids (N,), read.

        Raises:
            DataError: the file was changed, or cannot be read.
        """
        ids = np.empty(len(self), self.dtype)
        file = self.opened.file
        try:
            if take_stamp(file) != self.stamp:
                raise OSError("it was changed after it was opened")
            file.seek(self.start * self.dtype.itemsize)
            read_into(file, ids)
        except OSError as cause:
            raise DataError(
                f"{self.path} must stay as it is while it is trained on; got: {cause}; start again with --resume"
            ) from cause
        return ids if dtype is None else ids.astype(dtype, copy=False)

    def chunks(self, n_ids: int) -> Iterator[np.ndarray]:
        """Its ids, at most `n_ids` at a time."""
        for start in range(0, len(self), n_ids):
            yield np.asarray(self[start : start + n_ids])

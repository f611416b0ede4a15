"""Arrays by name, kept in a folder: a digest of each, and its numbers.

A name is "part/case/...": its first two words are the group that a comparison prints a line about.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

DIGESTS = "digests.json"
NUMBERS = "numbers.npz"


class Recorded(NamedTuple):
    digests: dict[str, str]  # SHA-256 of dtype, shape and bytes
    numbers: Mapping[str, np.ndarray]  # float64 for floats, else as they are


class Recorder:
    """Collects arrays."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.recorded = Recorded({}, {})

    def add(self, name: str, array: Any) -> None:
        """Record an array of the host, or a number or a list of them.

        Raises:
            ValueError: the name is taken.
        """
        if name in self.recorded.digests:
            raise ValueError(f"each name is recorded once; got {name} twice")
        array = np.ascontiguousarray(array)
        self.recorded.digests[name] = digest(array)
        is_float = array.dtype.kind not in "biu"  # bfloat16 is of kind "V"
        self.recorded.numbers[name] = array.astype(np.float64) if is_float else array.copy()

    def save(self, folder: Path) -> None:
        """Write the two files."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / DIGESTS).write_text(json.dumps(self.recorded.digests), encoding="utf-8")
        np.savez(folder / NUMBERS, **self.recorded.numbers)


def digest(array: np.ndarray) -> str:
    """SHA-256 of dtype, shape and bytes."""
    head = f"{array.dtype.name} {array.shape} ".encode()
    return hashlib.sha256(head + array.tobytes()).hexdigest()


def load(folder: Path) -> Recorded:
    """What `Recorder.save` wrote; numbers are read as they are asked for."""
    digests = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
    return Recorded(digests, np.load(folder / NUMBERS))

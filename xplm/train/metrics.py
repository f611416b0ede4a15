"""metrics.jsonl: how a run went, one JSON object a line."""

import json
import os
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from xplm.checkpoint.files import replacing, writing
from xplm.checkpoint.untrusted import parse_json, read_bytes, read_whole_lines

MAX_BYTES = 2**30  # of a file: some millions of lines


@dataclass(frozen=True)
class Metrics:
    """One line. What was not measured at a step is None, and null in the file."""

    step: int  # steps taken
    train_loss: float | None  # mean since the line before
    val_loss: float | None
    val_accuracy: float | None  # share of targets that have the highest logit
    perplexity: float | None  # exp(val_loss)
    lr: float | None  # of the step
    grad_norm: float | None  # of the step, before clipping
    tokens_per_s: float | None  # since the line before, evaluations left out
    loss_scale: float  # what the next step multiplies its loss by


class JsonLines:
    """The owner of a file that grows by a line at a time, and never holds half a line once it is opened."""

    def __init__(self, path: Path, *, upto: int) -> None:
        """Open a file, or make it.

        Args:
            path: the file.
            upto: drop lines whose "step" is beyond it.

        Raises:
            CheckpointError: the disk refuses.
        """
        self._path = path
        with writing(path):
            kept = [_to_line(line) for line in read_lines(path) if line["step"] <= upto]
            content = "".join(kept).encode()
            if not os.path.lexists(path) or read_bytes(path, MAX_BYTES) != content:
                with replacing(path) as file:
                    file.write(content)
            self._file = path.open("a", encoding="utf-8")

    def append(self, value: Any) -> None:
        """Add a dataclass as a line, for any reader to see at once.

        Raises:
            CheckpointError: the disk refuses.
        """
        with writing(self._path):
            self._file.write(_to_line(asdict(value)))
            self._file.flush()

    def close(self) -> None:
        """Close the file.

        Raises:
            CheckpointError: the disk refuses what was not written yet.
        """
        with writing(self._path):
            self._file.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that are whole: JSON objects with a step. None where there is no file.

    A crash of the machine may leave half a line, or a stretch of zeros; a run is not lost with it.
    """
    if not os.path.lexists(path):
        return []
    values = (_parse(line) for line in read_whole_lines(path, MAX_BYTES))
    return [v for v in values if isinstance(v, dict) and type(v.get("step")) is int]


def _parse(line: bytes) -> Any:
    """A line's value, or None where it is not JSON."""
    try:
        return parse_json(line.decode())
    except ValueError:
        return None


def _to_line(value: dict[str, Any]) -> str:
    """One line of JSON, which has no word for NaN and infinity: they become null."""
    plain = {k: None if isinstance(v, float) and not isfinite(v) else v for k, v in value.items()}
    return json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n"

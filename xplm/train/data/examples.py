"""Examples of unequal length: sentences, or conversations, each a sequence of its own or packed with others.

Padded, a batch is as wide as its longest example. Packed, examples share rows of the context's width, whole, so that
little of a row is padding; a later example then sees the earlier ones of its row, as in one long document. Padding is
on the right, where no scored token sees it.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from xplm.errors import DataError
from xplm.models.head import IGNORE_INDEX
from xplm.train.data.dataset import NOTHING_KNOWN, Batch, DataReport, spread_evenly
from xplm.train.data.order import draw


class Example(NamedTuple):
    """One sequence."""

    ids: np.ndarray  # (n,) int64
    targets: np.ndarray  # (n,) int64: the id that follows each, IGNORE_INDEX where it is not scored

    @classmethod
    def from_ids(
        cls, ids: Sequence[int] | np.ndarray, *, scored: Sequence[bool] | np.ndarray | None = None
    ) -> "Example":
        """Shift a sequence against itself.

        Args:
            ids: the whole sequence, n + 1 ids.
            scored: for each of them, whether the model is to learn to predict it; None: all.
        """
        row = np.asarray(ids, np.int64)
        targets = row[1:] if scored is None else np.where(scored, row, IGNORE_INDEX)[1:]
        return cls(row[:-1], targets)

    @property
    def is_scored(self) -> bool:
        """Whether there is anything to learn from it."""
        return bool((self.targets != IGNORE_INDEX).any())

    def cut(self, length: int) -> "Example":
        """Its first tokens."""
        return Example(self.ids[:length], self.targets[:length])


@dataclass(frozen=True, eq=False)
class Examples:
    """A `Dataset` of examples; `make_examples` builds it."""

    rows: Sequence[Example]  # to train on
    held_out: Sequence[Example]  # to validate on; may be empty
    batch_size: int  # rows to a micro-batch
    n_micro: int  # micro-batches to a step
    seed: int
    padded_to: int | None = None  # tokens of every row; None: those of the longest in the batch
    report: DataReport = NOTHING_KNOWN

    @property
    def n_examples(self) -> int:
        """Rows in an epoch."""
        return len(self.rows)

    @property
    def width(self) -> int:
        """Tokens of the widest row."""
        return self.padded_to or max(len(row.ids) for row in self.rows)

    @property
    def tokens_per_epoch(self) -> int:
        """Token ids that an epoch feeds to the model, padding not counted."""
        return sum(len(row.ids) for row in self.rows)

    def batch(self, step: int, micro: int = 0) -> Batch:
        """The rows of one forward pass."""
        start = (step * self.n_micro + micro) * self.batch_size
        drawn = draw(self.seed, start, self.batch_size, len(self.rows))
        return _pad([self.rows[index] for _, index in drawn], self.padded_to)

    def validation(self, at_most: int | None = None) -> Iterator[Batch]:
        """The held-out rows, in order."""
        for start in spread_evenly(range(0, len(self.held_out), self.batch_size), at_most):
            yield _pad(self.held_out[start : start + self.batch_size], self.padded_to)


def make_examples(
    examples: Sequence[Example],
    *,
    held_out: float,
    context: int,
    batch_size: int,
    n_micro: int,
    seed: int,
    packed: bool,
    report: DataReport = NOTHING_KNOWN,
) -> Examples:
    """Make a dataset.

    Args:
        examples: all, in the order of the data. One longer than the context loses its end, and one that has nothing
            scored is left out.
        held_out: share of them, at the end, that is for validation.
        context: tokens to a row at most.
        batch_size: rows to a micro-batch.
        n_micro: micro-batches to a step.
        seed: the run's, which the order comes from.
        packed: whether several examples share a row.
        report: what is known of their tokens.

    Raises:
        DataError: nothing is left to train on.
    """
    cut = [example.cut(context) for example in examples]
    rows = [row for row in cut if row.is_scored]
    report = report._replace(
        n_examples=len(examples),
        n_cut=sum(
            short.is_scored and len(short.ids) < len(example.ids)
            for short, example in zip(cut, examples, strict=True)
        ),
        n_left_out=len(examples) - len(rows),
    )
    n_train = len(rows) - round(len(rows) * held_out)
    if n_train < 1:
        raise DataError(
            f"training data must hold an example with a scored token among its first {context}, got none of "
            f"{len(examples)} examples to train on: check the data, hold out less, or take a larger context"
        )

    train, rest = rows[:n_train], rows[n_train:]
    if packed:
        train, rest = _pack(train, context), _pack(rest, context)
    return Examples(train, rest, batch_size, n_micro, seed, context if packed else None, report)


def _pad(rows: Sequence[Example], width: int | None) -> Batch:
    width = width or max(len(row.ids) for row in rows)
    ids = np.zeros((len(rows), width), np.int64)
    targets = np.full_like(ids, IGNORE_INDEX)
    for b, row in enumerate(rows):
        ids[b, : len(row.ids)] = row.ids
        targets[b, : len(row.ids)] = row.targets
    return Batch(ids, targets)


def _pack(examples: Sequence[Example], width: int) -> list[Example]:
    """Whole examples in as few rows as a simple rule finds: the longest first, each where it fits the tightest."""
    rows: list[list[Example]] = []
    free: list[tuple[int, int]] = []  # (tokens left in a row, the row), ascending
    for example in sorted(examples, key=lambda example: -len(example.ids)):
        place = bisect_left(free, (len(example.ids), 0))
        if place == len(free):
            rows.append([])
            insort(free, (width, len(rows) - 1))
        left, row = free.pop(place)
        rows[row].append(example)
        insort(free, (left - len(example.ids), row))
    return [_join(row) for row in rows]


def _join(row: Sequence[Example]) -> Example:
    return Example(
        np.concatenate([example.ids for example in row]),
        np.concatenate([example.targets for example in row]),
    )

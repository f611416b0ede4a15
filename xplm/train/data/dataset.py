"""What the training loop asks of data: the batch of any step, as a function of the step alone."""

from collections.abc import Iterator, Sequence, Sized
from typing import NamedTuple, Protocol

import numpy as np

from xplm.models.head import IGNORE_INDEX


class Batch(NamedTuple):
    """Sequences side by side, on the host."""

    ids: np.ndarray  # (B, T) int64; padding is at the end of a row
    targets: (
        np.ndarray
    )  # (B, T) int64: the id that follows each of `ids`, IGNORE_INDEX where it is not scored

    @property
    def n_targets(self) -> int:
        """Scored targets in it."""
        return int((self.targets != IGNORE_INDEX).sum())


class DataReport(NamedTuple):
    """What became of the data on their way into sequences."""

    n_examples: int = 0  # lines or conversations that were read; 0 of a text, which is cut anywhere
    n_cut: int = 0  # examples that are longer than the context, and lose their end
    n_left_out: int = 0  # examples that have nothing to learn within the context
    n_tokens: int = 0  # of all data, those held out included
    n_unknown: int = 0  # tokens that stand for what the tokenizer lacks
    n_lost_chars: int = 0  # characters that the tokenizer lacks and leaves out


NOTHING_KNOWN = DataReport()


class Dataset(Protocol):
    """Training and validation data, cut into sequences."""

    @property
    def held_out(self) -> Sized:
        """What is for validation; empty where nothing is."""
        ...

    @property
    def report(self) -> DataReport:
        """What became of the data."""
        ...

    @property
    def n_examples(self) -> int:
        """Sequences that an epoch is made of."""
        ...

    @property
    def tokens_per_epoch(self) -> int:
        """Token ids that an epoch feeds to the model, padding not counted."""
        ...

    @property
    def width(self) -> int:
        """Tokens of the longest sequence to train on."""
        ...

    def batch(self, step: int, micro: int = 0) -> Batch:
        """The sequences of one forward pass.

        Args:
            step: the optimizer's step, from 0.
            micro: which of the step's micro-batches.
        """
        ...

    def validation(self, at_most: int | None = None) -> Iterator[Batch]:
        """What is held out, in order; the same on every call.

        Args:
            at_most: the most batches, spread evenly over it; None: all.
        """
        ...


def spread_evenly(places: Sequence[int], at_most: int | None) -> list[int]:
    """At most `at_most` of the places, the first among them; None: all."""
    n = len(places) if at_most is None else min(at_most, len(places))
    return [places[i * len(places) // n] for i in range(n)]

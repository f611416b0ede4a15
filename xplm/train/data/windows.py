"""Windows of a long row of tokens: what a model is pre-trained on.

A window of context T holds T + 1 tokens: T inputs and, one to the right, T targets. Windows lie side by side, the last
target of one being the first input of the next, so that an epoch scores a token once. Each epoch begins somewhere else
in the first window, which moves all the cuts, and goes through its windows in an order of its own.

The held-out tokens are cut from their first on, in order, the last window being what remains: each but the first is a
target once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from xplm.errors import DataError
from xplm.models.head import IGNORE_INDEX
from xplm.train.data.dataset import NOTHING_KNOWN, Batch, DataReport, spread_evenly
from xplm.train.data.order import draw, epoch_generator
from xplm.train.data.token_file import TokenFile

Tokens: TypeAlias = np.ndarray | TokenFile
"""Ids (N,) integer, in memory or in a file; a slice is a view, and `np.asarray` reads it."""


def split(tokens: Tokens, held_out: float) -> tuple[Tokens, Tokens]:
    """Two views: the tokens to train on, and a share at the end that is held out."""
    cut = len(tokens) - round(len(tokens) * held_out)
    return tokens[:cut], tokens[cut:]


@dataclass(frozen=True, eq=False)
class Windows:
    """A `Dataset` of windows."""

    tokens: Tokens  # (N,) to train on
    held_out: Tokens  # (M,) to validate on; M may be 0
    context: int  # tokens to a window
    batch_size: int  # windows to a micro-batch
    n_micro: int  # micro-batches to a step
    seed: int
    report: DataReport = NOTHING_KNOWN

    def __post_init__(self) -> None:
        """Check the lengths.

        Raises:
            DataError: there is not one whole window to train on, or nothing to predict in what is held out.
        """
        if len(self.tokens) <= self.context:
            raise DataError(
                f"training data must hold at least one window of {self.context} + 1 tokens, got {len(self.tokens)}: "
                "give more text, a smaller context, or take each line as a sequence of its own"
            )
        if len(self.held_out) == 1:
            raise DataError("held-out data must hold at least 2 tokens, got 1: hold out more")

    @property
    def n_examples(self) -> int:
        """Windows in an epoch: one fewer than fit, for room to move the cuts, but at least one."""
        return max(1, (len(self.tokens) - 1) // self.context - 1)

    @property
    def tokens_per_epoch(self) -> int:
        """Token ids that an epoch feeds to the model."""
        return self.n_examples * self.context

    @property
    def width(self) -> int:
        """Tokens to a window."""
        return self.context

    def batch(self, step: int, micro: int = 0) -> Batch:
        """The windows of one forward pass: (B, T) ids and targets."""
        start = (step * self.n_micro + micro) * self.batch_size
        drawn = draw(self.seed, start, self.batch_size, self.n_examples)
        first_cut = {epoch: self._first_cut(epoch) for epoch in {epoch for epoch, _ in drawn}}
        starts = [first_cut[epoch] + window * self.context for epoch, window in drawn]
        spans = [self.tokens[s : s + self.context + 1] for s in starts]
        rows = np.stack([np.asarray(span, np.int64) for span in spans])
        return Batch(rows[:, :-1], rows[:, 1:])

    def validation(self, at_most: int | None = None) -> Iterator[Batch]:
        """Windows of the held-out tokens, in order; the last of all is padded."""
        per_batch = self.batch_size * self.context
        for start in spread_evenly(range(0, len(self.held_out) - 1, per_batch), at_most):
            row = np.asarray(self.held_out[start : start + per_batch + 1], np.int64)
            n_windows = -(-(len(row) - 1) // self.context)
            ids = np.zeros(n_windows * self.context, np.int64)
            targets = np.full_like(ids, IGNORE_INDEX)
            ids[: len(row) - 1] = row[:-1]
            targets[: len(row) - 1] = row[1:]
            yield Batch(ids.reshape(n_windows, -1), targets.reshape(n_windows, -1))

    def _first_cut(self, epoch: int) -> int:
        room = len(self.tokens) - 1 - self.n_examples * self.context
        return int(epoch_generator(self.seed, epoch, "first cut").integers(room + 1))

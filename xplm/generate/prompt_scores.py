"""How likely a model finds the tokens of a prompt, from logits that come in chunks."""

from collections.abc import Sequence

import numpy as np

from xplm.generate.sampling import Ranked, log_normaliser, rank_tokens


class PromptScores:
    """Log-probabilities of every token of a prompt but the first, which has nothing before it.

    Attributes:
        logprobs: of token 1 and on, as far as they are known.
        top: of each of these places the likeliest tokens.
    """

    def __init__(self, ids: Sequence[int], top_logprobs: int) -> None:
        """Nothing is known yet.

        Args:
            ids: the prompt.
            top_logprobs: how many of the likeliest tokens to keep.
        """
        self.logprobs: list[float] = []
        self.top: list[Ranked] = []
        self._ids = list(ids)
        self._top_logprobs = top_logprobs

    @property
    def is_complete(self) -> bool:
        """Whether every token has its log-probability."""
        return len(self.logprobs) == len(self._ids) - 1

    def push(self, begin: int, logits: np.ndarray) -> None:
        """Take in the logits after tokens `begin` and on; a place that is known stays as it is.   logits (T, V)

        Raises:
            RequestError: they are not finite.
        """
        known = len(self.logprobs)
        rows = logits[known - begin : len(self._ids) - 1 - begin]
        if len(rows) == 0:
            return
        targets = self._ids[known + 1 : known + 1 + len(rows)]
        normalisers = log_normaliser(rows)[:, 0]
        for row, target, normaliser in zip(rows, targets, normalisers, strict=True):
            self.logprobs.append(float(row[target] - normaliser))
            self.top.append(rank_tokens(row, self._top_logprobs, float(normaliser)))

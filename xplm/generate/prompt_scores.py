"""How likely a model finds the tokens of a prompt, from logits that come in chunks."""

from collections.abc import Sequence

import numpy as np

from xplm.generate.sampling import Ranked, log_normaliser, rank_tokens


class PromptScores:
    """Log-probabilities of the tokens of a prompt from `begin` on. The first token has none: nothing is before it.

    Attributes:
        begin: the first token that is scored, at least 1.
        logprobs: of token `begin` and on, as far as they are known.
        top: of each of these places the likeliest tokens.
    """

    def __init__(self, ids: Sequence[int], top_logprobs: int, begin: int = 1) -> None:
        """Nothing is known yet.

        Args:
            ids: the prompt.
            top_logprobs: how many of the likeliest tokens to keep.
            begin: the first token to score.
        """
        self.begin = begin
        self.logprobs: list[float] = []
        self.top: list[Ranked] = []
        self._ids = list(ids)
        self._top_logprobs = top_logprobs

    @property
    def is_complete(self) -> bool:
        """Whether every token has its log-probability."""
        return self.begin + len(self.logprobs) >= len(self._ids)

    def push(self, first: int, logits: np.ndarray) -> None:
        """Take in the logits after tokens `first` and on; a place that is known stays as it is.   logits (T, V)

        Raises:
            RequestError: they are not finite.
        """
        token = self.begin + len(
            self.logprobs
        )  # the next to score, by the logits after the one before it
        rows = logits[token - 1 - first : len(self._ids) - 1 - first]
        if len(rows) == 0:
            return
        targets = self._ids[token : token + len(rows)]
        normalisers = log_normaliser(rows)[:, 0]
        for row, target, normaliser in zip(rows, targets, normalisers, strict=True):
            self.logprobs.append(float(row[target] - normaliser))
            self.top.append(rank_tokens(row, self._top_logprobs, float(normaliser)))

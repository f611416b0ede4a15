"""What restricts the tokens of one reply, such as a grammar."""

from typing import NamedTuple, Protocol

import numpy as np


class Constraint(Protocol):
    """Says which tokens may follow, one after another."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow, so that the reply ends."""

    def mask(self, logits: np.ndarray) -> np.ndarray:
        """The logits of the tokens that may follow, and -inf for all others.   (V,) -> (V,)

        Raises:
            RequestError: none may, or finding them takes too much.
        """

    def push(self, token: int) -> None:
        """Take in the token that follows.

        Raises:
            RequestError: it may not, or taking it in takes too much.
        """


class Unconstrained(NamedTuple):
    """Any token may follow."""

    is_complete: bool = False

    def mask(self, logits: np.ndarray) -> np.ndarray:
        """The logits as they are."""
        return logits

    def push(self, token: int) -> None:
        """Any token will do."""

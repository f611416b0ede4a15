"""The next tokens of several replies, chosen on several threads.

A choice takes a few passes over a vocabulary, as long for 32 replies as a third of the forward pass that gave the
logits; NumPy lets other Python threads run meanwhile. It depends on its own reply alone.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from xplm.errors import RequestError
from xplm.generate.reply import Reply
from xplm.generate.sampling import Choice

Outcome = Choice | RequestError
"""A token, or why there is none."""

WORTH_A_THREAD = 2**17
"""Logits that one thread has been through before another has woken up."""


class Choosers:
    """Some threads, which begin with the first choices that are worth them and end with this object."""

    def __init__(self, threads: int) -> None:
        """Nothing runs yet.

        Args:
            threads: at most.
        """
        self._threads = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="xplm-chooser")

    def choose(self, replies: Sequence[Reply], logits: np.ndarray) -> list[Outcome]:
        """The next token of each reply.   logits (B, V)"""
        if self._threads == 1 or len(replies) == 1 or logits.size < WORTH_A_THREAD:
            return _choose(replies, logits)
        edges = np.linspace(0, len(replies), min(self._threads, len(replies)) + 1).astype(int)
        cuts = [slice(begin, end) for begin, end in pairwise(edges)]
        parts = self._executor.map(_choose, (replies[c] for c in cuts), (logits[c] for c in cuts))
        return [outcome for part in parts for outcome in part]


def _choose(replies: Sequence[Reply], logits: np.ndarray) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for reply, own in zip(replies, logits, strict=True):
        try:
            outcomes.append(reply.choose(own))
        except RequestError as refused:
            outcomes.append(refused)
    return outcomes

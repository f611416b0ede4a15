"""The order in which examples are drawn: a function of the seed, so that no step needs to know the ones before it.

Examples are counted through from the first step on. Number i belongs to epoch i // n, and is the example at place i % n
of that epoch's shuffle, which a counter-based generator (Philox) keyed by (seed, epoch) makes. A batch may lie across
two epochs; every epoch holds every example once. An order takes 8 bytes an example; the last two are kept.
"""

from functools import lru_cache

import numpy as np


def draw(seed: int, start: int, count: int, n_examples: int) -> list[tuple[int, int]]:
    """Examples number `start` to `start + count` of a run.

    Args:
        seed: the run's.
        start: number of the first, from 0.
        count: how many.
        n_examples: how many there are in an epoch.

    Returns:
        (epoch, index of the example) of each.
    """
    places = (divmod(number, n_examples) for number in range(start, start + count))
    return [(epoch, int(_shuffle(seed, epoch, n_examples)[place])) for epoch, place in places]


def epoch_generator(seed: int, epoch: int, purpose: str) -> np.random.Generator:
    """The generator of one epoch's choices, for one purpose among several."""
    key = np.random.SeedSequence([seed, epoch, *purpose.encode()])
    return np.random.Generator(np.random.Philox(key))


@lru_cache(maxsize=2)
def _shuffle(seed: int, epoch: int, n_examples: int) -> np.ndarray:
    return epoch_generator(seed, epoch, "shuffle").permutation(n_examples)

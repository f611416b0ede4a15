"""A text as one vector: the mean of the decoder's last states, those that the head would turn into logits."""

from collections.abc import Generator, Sequence

import numpy as np

from xplm.cache import ADVICE
from xplm.generate.engine import Engine
from xplm.models import decoder
from xplm.out_of_memory import memory_faults

CHUNK = 128
"""Tokens to a part."""


def embed_steps(engine: Engine, ids: Sequence[int]) -> Generator[None, None, np.ndarray]:
    """Embed one text, part by part.

    The states are added up in float64, one after another, so that the parts do not show in the sum.

    Args:
        engine: the decoder.
        ids: the text's tokens.

    Yields:
        After each part.

    Returns:
        (C,) float32.

    Raises:
        RequestError: no ids, more than the context holds, or one outside the vocabulary.
        OutOfMemoryError: an allocation failed.
    """
    ids, rt = engine.check_ids(ids), engine.rt
    cache = engine.allocate(1, len(ids))
    total = np.zeros(engine.config.hidden_size, np.float64)
    for begin in range(0, len(ids), CHUNK):
        chunk = np.asarray([ids[begin : begin + CHUNK]], np.int64)
        with rt.backend.computing(), memory_faults(rt.backend, "the states of a text", ADVICE):
            x = decoder.last_states(
                rt, engine.config, engine.params, rt.backend.from_host(chunk), cache, (len(ids),)
            )
            for state in rt.backend.to_host(x)[0].astype(np.float64):
                total += state
        yield
    return (total / len(ids)).astype(np.float32)


def embed(engine: Engine, ids: Sequence[int]) -> np.ndarray:
    """Embed one text: what `embed_steps` returns."""
    steps = embed_steps(engine, ids)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            vector: np.ndarray = end.value
            return vector

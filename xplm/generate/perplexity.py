"""How well a model predicts a text.

    perplexity = exp(-mean of log p(id_t | ids before it in its window))

The text is cut into windows, and each is scored alone: its first id has nothing before it, and is not scored.
"""

from collections.abc import Sequence
from math import exp, inf
from typing import NamedTuple

import numpy as np

from xplm.errors import RequestError
from xplm.generate.engine import Engine
from xplm.generate.options import is_integer
from xplm.generate.sampling import log_normaliser
from xplm.progress import SCORING

DEFAULT_WINDOW = 512
"""Ids to a window where the model's context has room for them."""


class Perplexity(NamedTuple):
    """What a text came to."""

    perplexity: float
    tokens: int  # ids scored
    window: int  # ids to a window
    text_tokens: int  # ids of the text
    unknown_tokens: int = 0  # among those, for what the tokenizer lacks
    lost_characters: int = 0  # of the text, which the tokenizer lacks and leaves out


def fit_window(window: int | None, context: int, usual: int = DEFAULT_WINDOW) -> int:
    """The window that is asked for; for None the usual one, or the context where that is shorter."""
    return min(usual, context) if window is None else window


def compute_perplexity(
    engine: Engine, ids: Sequence[int] | np.ndarray, window: int | None = None
) -> Perplexity:
    """Perplexity of a text.

    Args:
        engine: the decoder.
        ids: the text's token ids.
        window: ids to a window; the last may be shorter. None: DEFAULT_WINDOW, or the context where that is shorter.

    Raises:
        RequestError: the window is not an integer from 2 to the model's context, or there are fewer than 2 ids.
        OutOfMemoryError: the logits of a window do not fit the free memory.
    """
    window = fit_window(window, engine.context)
    if not is_integer(window) or not 2 <= window <= engine.context:
        raise RequestError(
            "a window must be an integer, and hold at least 2 ids and at most the model's context of "
            f"{engine.context}; got {window}"
        )
    if len(ids) < 2:
        raise RequestError(f"perplexity needs a text of at least 2 ids; got {len(ids)}")

    # Of the logits `log_normaliser` makes differences and exponentials.
    engine.require_logits_memory(min(window, len(ids)), copies=2)
    total, tokens = 0.0, 0
    for start in range(0, len(ids), window):
        engine.progress(SCORING, start, len(ids))
        part = engine.check_ids(ids[start : start + window])
        if len(part) < 2:
            break
        logits = engine.logits(part)[:-1]  # (T - 1, V)
        targets = np.asarray(part[1:])
        scored = np.take_along_axis(logits, targets[:, None], axis=-1) - log_normaliser(logits)
        total += float(np.sum(scored))
        tokens += len(targets)
    engine.progress(SCORING, len(ids), len(ids))
    return Perplexity(_exp(-total / tokens), tokens, window, len(ids))


def _exp(x: float) -> float:
    try:
        return exp(x)
    except OverflowError:  # beyond about 709.8
        return inf

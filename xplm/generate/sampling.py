"""From one row of logits to one token, on the host.

The transforms run in this order, which is that of transformers, so that equal options mean equal distributions:

    repetition penalty   z_i <- z_i / r if z_i > 0 else z_i r        for every token i that already occurred
    temperature          z <- z / t
    top-k                keep the k largest z
    top-p                keep the likeliest tokens up to the first whose cumulative probability reaches p
    min-p                keep tokens with prob_i >= m max(prob)

and a token is drawn by inverting the cumulative distribution at a coin in [0, 1). Temperature 0 takes the largest
logit instead, the lowest id where several are equal.

Sources: repetition penalty, Keskar et al., arXiv:1909.05858, section 4.1; top-k, Fan et al., arXiv:1805.04833; top-p,
Holtzman et al., arXiv:1904.09751; min-p, Nguyen et al., arXiv:2407.01082.

Numerics. The transforms are float64. A dropped token has the logit -inf, and is never drawn.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from xplm.errors import RequestError
from xplm.generate.options import SamplingOptions

Transform = Callable[[np.ndarray, Sequence[int]], np.ndarray]
"""(logits (V,), the ids so far) -> logits (V,), a new array."""


class Choice(NamedTuple):
    """A token that was chosen."""

    token: int
    logprob: float  # under the model's own distribution, before any transform


def make_transforms(options: SamplingOptions) -> list[Transform]:
    """The transforms that the options turn on, in the order in which they apply."""
    transforms: list[Transform] = []
    if options.repetition_penalty != 1.0:
        penalty = options.repetition_penalty
        transforms.append(lambda logits, ids: apply_repetition_penalty(logits, ids, penalty))
    if options.temperature == 0.0:
        return transforms

    transforms.append(lambda logits, _: apply_temperature(logits, options.temperature))
    if options.top_k > 0:
        transforms.append(lambda logits, _: apply_top_k(logits, options.top_k))
    if options.top_p < 1.0:
        transforms.append(lambda logits, _: apply_top_p(logits, options.top_p))
    if options.min_p > 0.0:
        transforms.append(lambda logits, _: apply_min_p(logits, options.min_p))
    return transforms


def choose_token(logits: np.ndarray, ids: Sequence[int], options: SamplingOptions) -> Choice:
    """Choose the next token.

    Args:
        logits: (V,), the model's.
        ids: the tokens before it, prompt and all. Their number picks the coin, so that a choice depends on the seed
            and the position alone, whatever else is in the batch or came before.
        options: how to choose.

    Raises:
        RequestError: the largest logit is not finite, so that there is no choice.
    """
    (normaliser,) = log_normaliser(logits)
    token = _choose(logits, ids, options)
    return Choice(token, float(logits[token] - normaliser))


def make_coin(seed: int, position: int) -> float:
    """The coin in [0, 1) for one position, from a counter-based generator."""
    bits = np.random.Philox(key=seed, counter=position)
    return float(np.random.Generator(bits).random())


def sample(logits: np.ndarray, coin: float) -> int:
    """The first id whose cumulative probability exceeds the coin.   logits (V,), coin in [0, 1)"""
    cumulative = np.cumsum(_unnormalised_probs(logits))
    return int(np.searchsorted(cumulative, coin * cumulative[-1], side="right"))


def log_normaliser(logits: np.ndarray) -> np.ndarray:
    """log(sum(exp(logits))), so that logits minus it are log-probabilities.   (..., V)  ->  (..., 1) float64

    The exponentials keep the dtype of the logits, and their sum is float64: float32 logits give it to about 1e-7.

    Raises:
        RequestError: a row holds NaN or +inf, or nothing but -inf.
    """
    top = np.max(logits, axis=-1, keepdims=True)
    if not np.all(np.isfinite(top)):
        raise RequestError(
            f"logits must be finite; the model gave {top[~np.isfinite(top)][0]}; "
            "if the policy is fp16 or narrower, try bf16 or fp32"
        )
    return top + np.log(np.sum(np.exp(logits - top), axis=-1, keepdims=True, dtype=np.float64))


def apply_repetition_penalty(logits: np.ndarray, ids: Sequence[int], penalty: float) -> np.ndarray:
    """Make the tokens in ids less likely, each once however often it occurs.   (V,) -> (V,)"""
    z = logits.astype(np.float64)
    seen = np.unique(np.asarray(ids, dtype=np.int64))
    with np.errstate(over="ignore"):  # the largest is kept finite, as what follows takes it to be
        z[seen] = np.where(z[seen] < 0, z[seen] * penalty, z[seen] / penalty)
    return np.minimum(z, np.finfo(np.float64).max)


def apply_temperature(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Divide by a temperature above 0.   (V,) -> (V,), shifted so that the largest is 0"""
    z = logits.astype(np.float64)
    with np.errstate(
        over="ignore"
    ):  # beside the largest, -inf is the right limit for a tiny temperature
        return (z - np.max(z)) / temperature


def apply_top_k(logits: np.ndarray, top_k: int) -> np.ndarray:
    """Keep the k largest, and any equal to the k-th.   (V,) -> (V,)"""
    if top_k >= logits.size:
        return logits
    kth = np.partition(logits, -top_k)[-top_k]
    return np.where(logits < kth, -np.inf, logits)


def apply_top_p(logits: np.ndarray, top_p: float) -> np.ndarray:
    """Keep the smallest set of the likeliest tokens whose probability reaches p in (0, 1].   (V,) -> (V,)

    Of tokens that are equally likely, those of lower id are kept first. The values are sorted, not the ids: that is
    several times faster, and only the ids equal to the last value kept need to be told apart.
    """
    descending = np.sort(logits)[::-1]
    cumulative = np.cumsum(_unnormalised_probs(descending))
    n_keep = 1 + int(np.searchsorted(cumulative, top_p * cumulative[-1]))

    last = descending[n_keep - 1]
    n_above = int(np.searchsorted(-descending, -last))
    is_kept = logits > last
    is_kept[np.flatnonzero(logits == last)[: n_keep - n_above]] = True
    return np.where(is_kept, logits, -np.inf)


def apply_min_p(logits: np.ndarray, min_p: float) -> np.ndarray:
    """Keep tokens at least min_p in (0, 1] times as likely as the likeliest.   (V,) -> (V,)"""
    return np.where(logits < np.max(logits) + np.log(min_p), -np.inf, logits)


def _choose(logits: np.ndarray, ids: Sequence[int], options: SamplingOptions) -> int:
    for transform in make_transforms(options):
        logits = transform(logits, ids)
    if options.temperature == 0.0:
        return int(np.argmax(logits))
    return sample(logits, make_coin(options.seed, len(ids)))


def _unnormalised_probs(logits: np.ndarray) -> np.ndarray:
    z = logits.astype(np.float64)
    return np.exp(z - np.max(z))

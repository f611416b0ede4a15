"""From one row of logits to one token, on the host.

The transforms run in this order, which is that of vLLM and, where it has them, of transformers, so that equal options
mean equal distributions:

    logit bias           z_i <- z_i + b_i
    repetition penalty   z_i <- z_i / r if z_i > 0 else z_i r        for every token i that already occurred
    frequency penalty    z_i <- z_i - f n_i                          n_i: how often the reply already has token i
    presence penalty     z_i <- z_i - q                              if n_i > 0
    temperature          z <- z / t
    top-k                keep the k largest z
    top-p                keep the likeliest tokens up to the first whose cumulative probability reaches p
    min-p                keep tokens with prob_i >= m max(prob)

and a token is drawn by inverting the cumulative distribution at a coin in [0, 1). Temperature 0 takes the largest
logit instead, the lowest id where several are equal.

Sources: repetition penalty, Keskar et al., arXiv:1909.05858, section 4.1; the other penalties and the bias, OpenAI's
API; top-k, Fan et al., arXiv:1805.04833; top-p, Holtzman et al., arXiv:1904.09751; min-p, Nguyen et al.,
arXiv:2407.01082.

Numerics. The transforms are float64. A dropped token has the logit -inf, and is never drawn. Of a whole vocabulary
the float64 exponentials are computed only where float32 ones, whose error is bounded, leave a choice open.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from xplm.errors import RequestError
from xplm.generate.options import SamplingOptions

Transform = Callable[[np.ndarray, Sequence[int]], np.ndarray]
"""(logits (V,), the ids so far) -> logits (V,), a new array."""

Ranked: TypeAlias = list[tuple[int, float]]
"""Token ids and their log-probabilities, the likeliest first."""

ROUGH = 1e-5
"""Relative error of a float32 exponential above underflow, at most: its argument, at most 104, is rounded to 24 bits
(6.2e-6), and the exponential is right to a few units in the last place (1.2e-7 each)."""

BLOCK = 512
"""Tokens whose probabilities are summed before one of them is looked for."""

UNDERFLOW = 1e-30
"""More than all float32 exponentials of a vocabulary lose together by underflow."""


class Choice(NamedTuple):
    """A token that was chosen."""

    token: int
    logprob: float  # under the model's own distribution, before any transform
    top: Ranked  # likewise, as many as the options ask for


def make_transforms(options: SamplingOptions, n_prompt: int = 0) -> list[Transform]:
    """The transforms that the options turn on, in the order in which they apply.

    Args:
        options: how to choose.
        n_prompt: how many of the ids so far frequency and presence penalties do not count.
    """
    transforms: list[Transform] = []
    if options.logit_bias:
        transforms.append(lambda logits, _: apply_logit_bias(logits, options.logit_bias))
    if options.repetition_penalty != 1.0:
        penalty = options.repetition_penalty
        transforms.append(lambda logits, ids: apply_repetition_penalty(logits, ids, penalty))
    frequency, presence = options.frequency_penalty, options.presence_penalty
    if frequency != 0.0 or presence != 0.0:
        transforms.append(
            lambda logits, ids: apply_count_penalties(logits, ids[n_prompt:], frequency, presence)
        )
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


def choose_token(
    logits: np.ndarray,
    ids: Sequence[int],
    options: SamplingOptions,
    *,
    n_prompt: int = 0,
    allowed: np.ndarray | None = None,
) -> Choice:
    """Choose the next token.

    Args:
        logits: (V,), the model's.
        ids: the tokens before it, prompt and all. Their number picks the coin, so that a choice depends on the seed
            and the position alone, whatever else is in the batch or came before.
        options: how to choose.
        n_prompt: how many of the ids are the prompt's.
        allowed: (V,), the logits with -inf for tokens that must not be chosen; None: any may be.

    Raises:
        RequestError: the largest logit is not finite, or no token that may be chosen has a probability, so that there
            is no choice.
    """
    (normaliser,) = log_normaliser(logits)
    if allowed is not None and np.max(allowed) == -np.inf:
        raise RequestError(
            "no token that may follow has a probability: what is asked for cannot be met"
        )
    token = _choose(logits if allowed is None else allowed, ids, options, n_prompt)
    top = rank_tokens(logits, options.top_logprobs, float(normaliser))
    return Choice(token, float(logits[token] - normaliser), top)


def rank_tokens(logits: np.ndarray, count: int, normaliser: float) -> Ranked:
    """The likeliest tokens, of equal ones the lowest id first.   logits (V,), and their `log_normaliser`"""
    count = min(count, logits.size)
    if count == 0:
        return []
    least = np.partition(logits, -count)[-count]
    ids = np.flatnonzero(logits >= least)
    ids = ids[np.argsort(-logits[ids], kind="stable")[:count]]
    return [(int(token), float(logits[token]) - normaliser) for token in ids]


def make_coin(seed: int, position: int) -> float:
    """The coin in [0, 1) for one position, from a counter-based generator."""
    bits = np.random.Philox(key=seed, counter=position)
    return float(np.random.Generator(bits).random())


def sample(logits: np.ndarray, coin: float) -> int:
    """The first id whose cumulative probability exceeds the coin.   logits (V,), coin in [0, 1)"""
    rough = _rough_probs(logits)
    sums = np.cumsum(np.add.reduceat(rough, np.arange(0, rough.size, BLOCK), dtype=np.float64))
    target = coin * sums[-1]
    slack = 3 * ROUGH * target + UNDERFLOW  # of the target, and of the sums that it is held against
    block = int(np.searchsorted(sums, target - slack, side="right"))
    before = sums[block - 1] if block > 0 else 0.0
    begin = block * BLOCK
    cumulative = before + np.cumsum(rough[begin : begin + BLOCK], dtype=np.float64)
    first, last = np.searchsorted(cumulative, (target - slack, target + slack), side="right")
    if first == last < cumulative.size:
        return int(begin + first)
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
    z = logits - top
    return top + np.log(np.sum(np.exp(z, out=z), axis=-1, keepdims=True, dtype=np.float64))


def apply_logit_bias(logits: np.ndarray, biases: Sequence[tuple[int, float]]) -> np.ndarray:
    """Add to the logits of some tokens, each of which is there once.   (V,) -> (V,)"""
    z = logits.astype(np.float64)
    tokens, values = zip(*biases, strict=True)
    z[list(tokens)] += values
    return z


def apply_repetition_penalty(logits: np.ndarray, ids: Sequence[int], penalty: float) -> np.ndarray:
    """Make the tokens in ids less likely, each once however often it occurs.   (V,) -> (V,)"""
    z = logits.astype(np.float64)
    seen = np.unique(np.asarray(ids, dtype=np.int64))
    with np.errstate(over="ignore"):  # the largest is kept finite, as what follows takes it to be
        z[seen] = np.where(z[seen] < 0, z[seen] * penalty, z[seen] / penalty)
    return np.minimum(z, np.finfo(np.float64).max)


def apply_count_penalties(
    logits: np.ndarray, ids: Sequence[int], frequency: float, presence: float
) -> np.ndarray:
    """Take `presence` from the logit of each token in ids, and `frequency` for each time it occurs.   (V,) -> (V,)"""
    z = logits.astype(np.float64)
    seen, counts = np.unique(np.asarray(ids, dtype=np.int64), return_counts=True)
    z[seen] -= frequency * counts + presence
    return z


def apply_temperature(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Divide by a temperature above 0.   (V,) -> (V,), shifted so that the largest is 0"""
    z = logits.astype(np.float64)
    with np.errstate(
        over="ignore"
    ):  # beside the largest, -inf is the right limit for a tiny temperature
        z -= np.max(z)
        z /= temperature
    return z


def apply_top_k(logits: np.ndarray, top_k: int) -> np.ndarray:
    """Keep the k largest, and any equal to the k-th.   (V,) -> (V,)"""
    if top_k >= logits.size:
        return logits
    kth = np.partition(logits, -top_k)[-top_k]
    return np.where(logits < kth, -np.inf, logits)


def apply_top_p(logits: np.ndarray, top_p: float) -> np.ndarray:
    """Keep the smallest set of the likeliest tokens whose probability reaches p in (0, 1].   (V,) -> (V,)

    Of tokens that are equally likely, those of lower id are kept first. Only tokens that may be kept are sorted: all
    of those whose probability is below (1 - p) / V have less than 1 - p together, so that none of them is.
    """
    total = float(np.sum(_rough_probs(logits), dtype=np.float64))
    least = (1 - top_p) * total / logits.size
    floor = np.log(least * (1 - 3 * ROUGH)) if least > UNDERFLOW else -np.inf
    ids = np.flatnonzero(logits >= np.max(logits) + floor)
    descending = np.sort(logits[ids])[::-1]
    cumulative = np.cumsum(_unnormalised_probs(descending))

    slack = 2 * ROUGH * total
    first, last = np.searchsorted(cumulative, (top_p * (total - slack), top_p * (total + slack)))
    if first != last:
        total = np.cumsum(_unnormalised_probs(np.sort(logits)[::-1]))[-1]
        first = np.searchsorted(cumulative, top_p * total)

    least_kept = descending[first]
    n_above = int(np.searchsorted(-descending, -least_kept))
    equal = ids[logits[ids] == least_kept][: first + 1 - n_above]
    above = ids[logits[ids] > least_kept]
    kept = np.full_like(logits, -np.inf)
    kept[above], kept[equal] = logits[above], least_kept
    return kept


def apply_min_p(logits: np.ndarray, min_p: float) -> np.ndarray:
    """Keep tokens at least min_p in (0, 1] times as likely as the likeliest.   (V,) -> (V,)"""
    return np.where(logits < np.max(logits) + np.log(min_p), -np.inf, logits)


def _choose(logits: np.ndarray, ids: Sequence[int], options: SamplingOptions, n_prompt: int) -> int:
    for transform in make_transforms(options, n_prompt):
        logits = transform(logits, ids)
    if options.temperature == 0.0:
        return int(np.argmax(logits))
    return sample(logits, make_coin(options.seed, len(ids)))


def _unnormalised_probs(logits: np.ndarray) -> np.ndarray:
    z = logits.astype(np.float64)
    z -= np.max(z)
    return np.exp(z, out=z)


def _rough_probs(logits: np.ndarray) -> np.ndarray:
    """`_unnormalised_probs` in float32, to a relative ROUGH above underflow."""
    z = np.empty(logits.shape, np.float32)
    with np.errstate(over="ignore"):  # -inf, whose exponential is 0, is the right limit
        np.subtract(logits, np.max(logits), out=z, casting="same_kind")
    return np.exp(z, out=z)

"""How far a model under one policy is from the same model in float32, as sums that grow chunk by chunk.

For the token after each position, with reference logits r and logits x of a policy:

    loss          log sum exp(x) - x_t                                  t the text's own token
    KL            sum_j p_j (log p_j - log q_j) = sum_j p_j (r_j - x_j) - (lse(r) - lse(x)),    p = softmax(r)
    agreement     arg max r = arg max x
    logit error   max_j |x_j - r_j|
    drift         |h - h_r| / |h_r|                                     h a row of the residual stream, Euclidean norm

The means are over tokens. A stream holds a few tokens whose norm is hundreds of times the others', which is why drift
is relative token by token. What is not finite in a policy's logits predicts nothing: its loss and KL are infinite.

Numerics. The second form of KL is exactly 0 for equal logits; its sum over the vocabulary is float64, since terms of
both signs leave a result far smaller than any of them. The log-sum-exps are those of float32 exponentials, which leaves
KL an error of about 1e-7.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, inf
from typing import NamedTuple

import numpy as np

from xplm.generate.sampling import log_normaliser

FIRST_BIN = 64
"""Positions are told apart by doublings: 0-63, 64-127, 128-255, ..."""

N_BINS = 20

NOT_SCORED = -1
"""A target that there is none of."""


@dataclass(frozen=True)
class Tally:
    """Sums over the tokens that were compared."""

    n_tokens: int
    n_scored: int  # tokens whose next one is known
    n_broken: int  # tokens with logits that are not finite
    n_agreed: int
    loss: float  # nats, over n_scored
    max_error: float  # of a logit
    kl: np.ndarray  # (N_BINS,) nats, by the position's bin
    n_binned: np.ndarray  # (N_BINS,) tokens
    drift: np.ndarray  # (L + 1,)
    seconds: float  # of forward passes

    def __add__(self, other: "Tally") -> "Tally":
        """Both texts together."""
        return Tally(
            self.n_tokens + other.n_tokens,
            self.n_scored + other.n_scored,
            self.n_broken + other.n_broken,
            self.n_agreed + other.n_agreed,
            self.loss + other.loss,
            max(self.max_error, other.max_error),
            self.kl + other.kl,
            self.n_binned + other.n_binned,
            self.drift + other.drift,
            self.seconds + other.seconds,
        )

    @property
    def mean_loss(self) -> float:
        """Nats a token."""
        return self.loss / self.n_scored

    @property
    def perplexity(self) -> float:
        """exp of the mean loss."""
        return exp(self.mean_loss) if self.mean_loss < 700.0 else inf

    @property
    def mean_kl(self) -> float:
        """Nats a token."""
        return float(np.sum(self.kl)) / self.n_tokens

    @property
    def agreement(self) -> float:
        """Share of tokens after which the likeliest next one is the same."""
        return self.n_agreed / self.n_tokens

    @property
    def mean_drift(self) -> list[float]:
        """By depth, from the embedding to the last block."""
        return [float(total) / self.n_tokens for total in self.drift]

    @property
    def tokens_per_s(self) -> float:
        """How fast the text was read."""
        return self.n_tokens / self.seconds

    @property
    def kl_by_position(self) -> list[tuple[int, float]]:
        """(first position of a bin, mean KL in it), for the bins that hold tokens."""
        return [
            (FIRST_BIN << (i - 1) if i else 0, float(self.kl[i] / self.n_binned[i]))
            for i in range(N_BINS)
            if self.n_binned[i]
        ]


class Outputs(NamedTuple):
    """What a model made of a chunk of one sequence."""

    logits: np.ndarray  # (T, V) float32
    stream: Mapping[int, np.ndarray]  # by depth, (T, C) float32
    seconds: float  # of the forward pass


class Reference(NamedTuple):
    """A chunk's outputs in float32, and what every comparison with them needs."""

    outputs: Outputs
    lse: np.ndarray  # (T,) float64
    probs: np.ndarray  # (T, V) float32
    best: np.ndarray  # (T,) likeliest next token


def make_reference(outputs: Outputs) -> Reference:
    """Prepare a chunk for comparisons.

    Raises:
        RequestError: a logit is NaN or infinite.
    """
    lse = log_normaliser(outputs.logits)
    probs = np.exp(outputs.logits - lse.astype(np.float32))
    return Reference(outputs, lse[:, 0], probs, np.argmax(outputs.logits, axis=-1))


def compare(reference: Reference, own: Outputs, targets: Sequence[int], start: int) -> Tally:
    """One chunk under a policy against the reference.

    Args:
        reference: the chunk in float32.
        own: the chunk under the policy.
        targets: (T,) the id after each position, NOT_SCORED where there is none.
        start: position of the first token in its window.
    """
    T, logits = len(targets), own.logits
    lse = _log_normalisers(logits)
    is_whole = np.isfinite(lse)

    difference = reference.outputs.logits - logits
    expected = np.sum(reference.probs * difference, axis=-1, dtype=np.float64)
    kl = np.where(is_whole, expected - (reference.lse - lse), inf)
    bins = np.frexp((start + np.arange(T)) // FIRST_BIN)[1]  # 0 for 0, else 1 + floor(log2)
    return Tally(
        n_tokens=T,
        n_scored=sum(target != NOT_SCORED for target in targets),
        n_broken=int(np.sum(~is_whole)),
        n_agreed=int(np.sum((np.argmax(logits, axis=-1) == reference.best) & is_whole)),
        loss=_total_loss(logits, lse, targets),
        max_error=float(np.max(np.abs(difference))) if is_whole.all() else inf,
        kl=np.bincount(bins, kl, N_BINS),
        n_binned=np.bincount(bins, minlength=N_BINS),
        drift=_drift(reference.outputs.stream, own.stream),
        seconds=own.seconds,
    )


def total_loss(logits: np.ndarray, targets: Sequence[int]) -> float:
    """Nats over the targets that are scored.   logits (T, V) float32; targets (T,)"""
    return _total_loss(logits, _log_normalisers(logits), targets)


def _log_normalisers(logits: np.ndarray) -> np.ndarray:
    """log(sum(exp(logits))), infinite where a logit is not finite.   (T, V)  ->  (T,) float64"""
    lse = np.full(len(logits), inf)
    is_whole = np.isfinite(np.min(logits, axis=-1)) & np.isfinite(np.max(logits, axis=-1))
    if is_whole.any():
        rows = logits if is_whole.all() else logits[is_whole]
        lse[is_whole] = log_normaliser(rows)[:, 0]
    return lse


def _total_loss(logits: np.ndarray, lse: np.ndarray, targets: Sequence[int]) -> float:
    next_ids = np.asarray(targets)
    scored = next_ids != NOT_SCORED
    chosen = np.take_along_axis(logits, np.where(scored, next_ids, 0)[:, None], axis=-1)[:, 0]
    loss = np.where(np.isfinite(lse), lse - chosen, inf)
    return float(np.sum(loss[scored]))


def _drift(reference: Mapping[int, np.ndarray], own: Mapping[int, np.ndarray]) -> np.ndarray:
    """Sums over the tokens, by depth."""
    totals = []
    for depth in sorted(reference):
        right, x = reference[depth], own[depth]
        size = np.linalg.norm(right, axis=-1)
        error = np.linalg.norm(x - right, axis=-1)
        relative = error / np.where(size > 0.0, size, 1.0)
        totals.append(np.sum(np.where(np.isfinite(relative), relative, inf), dtype=np.float64))
    return np.asarray(totals)

"""Are the tokens that flip the ones that were marked fragile? Two shares, over replies to prompts cut from texts.

A configuration flips a token of a reply if, given those before it, it would choose another. The shares are how many of
the flips were marked fragile by `xplm.generate.fragility`, and how many of all tokens are.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from xplm.generate.engine import Engine
from xplm.generate.fragility import QUANTILE, compute_margins, measure_fragility

LEAST_MARKED = 0.95  # of the flips
MOST_FRAGILE = 0.10  # of the tokens
PROMPT_TOKENS = (8, 48)

Batch = Mapping[str, Any]
"""Prompts, replies, and for each token its margin, its bound, and its margin and rival in each other configuration."""


def draw_prompts(texts: Sequence[Sequence[int]], seed: int) -> Iterator[list[int]]:
    """Prompts without end, cut anywhere out of each text in turn."""
    rng = np.random.default_rng(seed)
    while True:
        for text in texts:
            length = min(int(rng.integers(*PROMPT_TOKENS)), len(text))
            begin = int(rng.integers(0, len(text) - length + 1))
            yield list(text[begin : begin + length])


def measure_batch(
    engine: Engine,
    others: Mapping[str, Engine],
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    against: str,
    seed: int,
) -> dict[str, Any]:
    """Judge replies, and compute the margins that other configurations give the same tokens.

    Args:
        engine: the model that replied.
        others: the same model in other configurations, by name.
        prompts: token ids.
        replies: the greedy reply to each.
        against: the policy that is guarded against.
        seed: of the perturbations.
    """
    judged = measure_fragility(engine, prompts, replies, against, seed=seed)
    batch: dict[str, Any] = {
        "prompts": prompts,
        "replies": replies,
        "margin": [[token.margin for token in tokens] for tokens in judged],
        "bound": [[token.bound for token in tokens] for tokens in judged],
        "others": {},
    }
    for name, other in others.items():
        found = compute_margins(other, prompts, replies)
        batch["others"][name] = {
            "margin": [margins.margin.tolist() for margins in found],
            "rival": [margins.rival.tolist() for margins in found],
        }
    return batch


def count_tokens(batches: Sequence[Batch]) -> int:
    """Tokens of all replies."""
    return sum(len(reply) for batch in batches for reply in batch["replies"])


def summarise(batches: Sequence[Batch]) -> dict[str, Any]:
    """Shares of the flips and of the tokens, and whether both are within their limits."""
    chosen, margin, bound = (_joined(batches, name) for name in ("replies", "margin", "bound"))
    is_fragile = ~(margin > bound)
    sides: dict[str, dict[str, float]] = {}
    n_flips, n_marked = 0, 0
    for name in batches[0]["others"]:
        own = [batch["others"][name] for batch in batches]
        there, rival = _joined(own, "margin"), _joined(own, "rival")
        is_flip = (there < 0.0) | ((there == 0.0) & (rival < chosen))  # a tie takes the lower id
        moved = (there - margin)[bound > 0.0] * QUANTILE / bound[bound > 0.0]
        flips, marked = int(is_flip.sum()), int((is_flip & is_fragile).sum())
        sides[name] = {
            "flips": flips,
            "marked": marked,
            "moved": float(np.sqrt(np.mean((there - margin) ** 2))),
            "moved_over_noise": float(np.sqrt(np.mean(moved**2))),
        }
        n_flips += flips
        n_marked += marked
    share = n_marked / n_flips if n_flips else 1.0
    fragile = float(is_fragile.mean())
    return {
        "tokens": len(chosen),
        "fragile_share": fragile,
        "flips": n_flips,
        "marked_share": share,
        "is_met": share >= LEAST_MARKED and fragile <= MOST_FRAGILE,
        "others": sides,
    }


def _joined(parts: Sequence[Batch], name: str) -> np.ndarray:
    """One number a token, of all replies of all batches."""
    return np.asarray([number for part in parts for row in part[name] for number in row])

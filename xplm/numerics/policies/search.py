"""A cheap policy within a budget of loss, found greedily.

    from float32 throughout, part by part, the one that has most bytes to save first:
        of the formats, the narrowest first, keep the first with
            loss(policy with the part in this format) - loss(fp32) <= budget
        or leave the part as it is

Loss is the mean cross-entropy on a text, in nats a token; bytes are `xplm.numerics.policies.cost`'s. A choice is not
taken back: there are at most parts times formats trials, and the last one kept is within the budget as a whole. It need
not be the cheapest that there is, since a part may spend what two later ones could have shared.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import NamedTuple

import numpy as np

from xplm.errors import RequestError, did_you_mean
from xplm.generate.engine import Engine
from xplm.numerics.policies.cost import PARTS, bits, total_bytes
from xplm.numerics.policies.distance import NOT_SCORED, total_loss
from xplm.numerics.policies.reading import Chunk, Reader, recast
from xplm.precision import Policy

Evaluate = Callable[[Policy], float]
"""The mean loss under a policy, in nats a token."""


class PolicyTrial(NamedTuple):
    """A policy that was tried."""

    policy: Policy
    part: str  # that was changed; "" for float32 throughout
    loss: float  # nats a token
    excess: float  # over float32's
    n_bytes: float  # a token
    is_kept: bool


def search(
    evaluate: Evaluate,
    numbers: Mapping[str, int],
    *,
    budget: float,
    formats: Sequence[str],
    parts: Sequence[str] = PARTS,
) -> Iterator[PolicyTrial]:
    """Try policies.

    Args:
        evaluate: measures one.
        numbers: `count_numbers`' of the model.
        budget: nats a token that may be lost to float32.
        formats: short names of what to try for each part, such as "bf16".
        parts: what may change.

    Yields:
        Every trial, float32 throughout first. The last one kept is the result.

    Raises:
        RequestError: the budget is negative, or a part or a format is not known.
    """
    if not budget >= 0.0:
        raise RequestError(f"a budget must be at least 0 nats a token; got {budget}")
    if unknown := [part for part in parts if part not in PARTS]:
        raise RequestError(
            f"the parts that cost are {', '.join(PARTS)}; got {', '.join(unknown)}"
            f"{did_you_mean(unknown, PARTS)}"
        )
    narrowest_first = sorted((Policy.parse(short).compute for short in formats), key=bits)

    best = Policy()
    base = evaluate(best)
    yield PolicyTrial(best, "", base, 0.0, total_bytes(best, numbers), True)
    for part in sorted(parts, key=lambda part: -numbers[part]):
        for name in narrowest_first:
            if bits(name) >= bits(getattr(best, part)):
                continue
            policy = replace(best, **{part: name})
            loss = evaluate(policy)
            is_kept = loss - base <= budget
            yield PolicyTrial(
                policy, part, loss, loss - base, total_bytes(policy, numbers), is_kept
            )
            if is_kept:
                best = policy
                break


def make_evaluate(
    reference: Engine,
    chunks: Sequence[Chunk],
    kernels: str,
    progress: Callable[[Policy, int], None] = lambda policy, n_read: None,
) -> Evaluate:
    """How a model's loss on a text is measured.

    Args:
        reference: the model in float32.
        chunks: the text, cut.
        kernels: "fused" or "portable".
        progress: told the policy and how many chunks it has read.
    """
    n_scored = sum(target != NOT_SCORED for chunk in chunks for target in chunk.targets)

    def evaluate(policy: Policy) -> float:
        reader, total = Reader(recast(reference, policy, kernels, {})), 0.0
        for n_read, chunk in enumerate(chunks, 1):
            with np.errstate(all="ignore"):  # what overflows shows in the loss
                total += total_loss(reader.read(chunk).logits, chunk.targets)
            progress(policy, n_read)
            if total == inf:  # whatever the rest of the text says
                break
        return total / n_scored

    return evaluate

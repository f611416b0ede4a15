"""Equal greedy tokens, before any speed counts.

A reference in float32 continues each prompt greedily. Every system then reads the reference's tokens one by one, and
says at each which it would have chosen; where all are equal, so is its own greedy text. Formats round, so a system may
differ where the reference itself was in two minds: where the margin between its best two logits is below

    bound = 3 sqrt(2) sqrt(2 L + 1) (u + sqrt(F) 2^-24) s

Each of 2 L + 1 sums into the residual stream is off by a relative u, the unit roundoff of the narrowest format that a
product's operands or the cache are rounded to, and by float32's own rounding over a sum of F terms; such errors add as
their squares do. An error of that size in a direction that knows nothing of the vocabulary moves a logit by the same
part of s, the standard deviation of all logits. A margin is the difference of two, and three standard deviations are
allowed. The largest error seen is reported beside the bound.
"""

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

LEAST_JUDGED = 0.5
"""Of all positions: a gate that lets most of them pass unseen is none."""

ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


class Reference(NamedTuple):
    """A prompt and its greedy continuation in float32."""

    prompt: list[int]
    ids: list[int]  # (N,)
    runners_up: list[int]  # (N,) the second likeliest at each position
    margins: list[float]  # (N,) between the two
    deviation: float  # standard, of all logits at a position; the largest


class Choices(NamedTuple):
    """What a system made of a reference."""

    ids: list[int]  # (N,) its likeliest token at each position
    margins: list[float]  # (N,) between the reference's two tokens


class Gate(NamedTuple):
    """How a system compares with the reference, over all prompts."""

    positions: int
    judged: int  # where the margin is at least the bound
    equal: int  # of all positions
    differing: list[tuple[int, int]]  # judged and not equal: (prompt, position)
    bound: float  # the largest
    error: float  # the largest, of a margin

    @property
    def is_passed(self) -> bool:
        """Whether speeds count."""
        return not self.differing and self.judged >= LEAST_JUDGED * self.positions


def near_tie(roundoff: float, layers: int, mlp_width: int, deviation: float) -> float:
    """The bound."""
    relative = roundoff + sqrt(mlp_width) * 2.0**-24
    return 3 * sqrt(2 * (2 * layers + 1)) * relative * deviation


def compare(
    references: Sequence[Reference], choices: Sequence[Choices], bounds: Sequence[float]
) -> Gate:
    """Judge a system: for each prompt what it chose, and what counts as a tie."""
    judged = equal = 0
    differing, errors = [], [0.0]
    for prompt, (reference, own, bound) in enumerate(zip(references, choices, bounds, strict=True)):
        for position, (expected, got) in enumerate(zip(reference.ids, own.ids, strict=True)):
            is_judged = reference.margins[position] >= bound
            judged += is_judged
            equal += expected == got
            if is_judged and expected != got:
                differing.append((prompt, position))
            errors.append(abs(own.margins[position] - reference.margins[position]))
    positions = sum(len(reference.ids) for reference in references)
    return Gate(positions, judged, equal, differing, max(bounds), max(errors))

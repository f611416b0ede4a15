"""The learning rate of each step: up, along, and down.

    warm-up   lr (t + 1) / (warmup_steps + 1)                 t < warmup_steps
    stable    lr
    decay     min_lr + f(r) (lr - min_lr)                     in the last decay_steps, r from 0 to 1
    after     min_lr                                          t >= steps

    "constant"  never decays
    "linear"    f(r) = 1 - r                    from the end of warm-up, unless decay_steps says otherwise
    "cosine"    f(r) = (1 + cos(pi r)) / 2      the same; equal to nanoGPT's, whose lr_decay_iters are `steps` here
    "wsd"       f(r) = 1 - sqrt(r)              the last fifth of the steps, unless decay_steps says otherwise

Sources: cosine, Loshchilov and Hutter, "SGDR", arXiv:1608.03983, eq. 5, with one period; warm-up-stable-decay, Hu et
al., "MiniCPM", arXiv:2404.06395, section 4, with the decay of Hägele et al., "Scaling Laws and Compute-Optimal Training
Beyond Fixed Training Durations", arXiv:2405.18392, section 3.
"""

from collections.abc import Callable
from math import cos, inf, pi, sqrt
from typing import TypeAlias

from xplm.errors import RequestError, did_you_mean

Schedule: TypeAlias = Callable[[int], float]
"""Learning rate of a step, counted from 0."""

SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda r: 1.0,
    "linear": lambda r: 1.0 - r,
    "cosine": lambda r: 0.5 * (1.0 + cos(pi * r)),
    "wsd": lambda r: 1.0 - sqrt(r),
}
"""f by the schedule's name."""


def make_schedule(
    kind: str,
    *,
    lr: float,
    min_lr: float = 0.0,
    warmup_steps: int = 0,
    steps: int,
    decay_steps: int | None = None,
) -> Schedule:
    """A schedule.

    Args:
        kind: "constant", "linear", "cosine" or "wsd".
        lr: the highest rate.
        min_lr: the last.
        warmup_steps: steps below lr at the start. A run no longer than that ends in its warm-up.
        steps: steps of the run.
        decay_steps: steps from lr down to min_lr, the last of the run; None: as the kind has it.

    Raises:
        RequestError: the kind is unknown, or the numbers contradict each other.
    """
    if kind not in SHAPES:
        hint = did_you_mean(kind, SHAPES)
        raise RequestError(f'a schedule is one of {", ".join(SHAPES)}; got "{kind}"{hint}')
    if not 0.0 <= min_lr <= lr:
        raise RequestError(f"0 <= min_lr <= lr must hold; got min_lr = {min_lr}, lr = {lr}")
    if warmup_steps < 0 or steps < 1:
        raise RequestError(
            "warmup_steps must be at least 0 and steps at least 1; "
            f"got warmup_steps = {warmup_steps}, steps = {steps}"
        )
    rest = max(0, steps - warmup_steps)
    if decay_steps is None:
        decay_steps = min(rest, steps // 5) if kind == "wsd" else rest
    elif kind == "constant" or not 1 <= decay_steps <= rest:
        raise RequestError(
            "decay_steps must be at least 1 and end after warm-up, in a schedule that decays; "
            f'got "{kind}" with steps = {steps}, warmup_steps = {warmup_steps}, '
            f"decay_steps = {decay_steps}; leave it out for the default"
        )
    end = warmup_steps + rest
    start = inf if kind == "constant" else end - decay_steps

    def schedule(step: int) -> float:
        if step < warmup_steps:
            return lr * (step + 1) / (warmup_steps + 1)
        if step < start:
            return lr
        if step >= end:
            return min_lr
        return min_lr + SHAPES[kind]((step - start) / (end - start)) * (lr - min_lr)

    return schedule

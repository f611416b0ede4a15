"""One recipe trained under several policies: same weights to begin with, same batches, same dropout.

What a run draws depends on the recipe's seed and the step alone, so that two curves differ by the policy's arithmetic
and by nothing else. Runs leave nothing behind: their directories are temporary.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any

from xplm.backend import Backend
from xplm.errors import RequestError
from xplm.precision import Policy
from xplm.runtime import make_runtime
from xplm.train.loop import Trainer
from xplm.train.prepare import prepare
from xplm.train.recipe import Recipe
from xplm.train.run_directory import RunDirectory
from xplm.train.task import training_policy

LAST_STEPS = 20
"""Steps at the end whose losses are averaged: one batch's is mostly noise."""


@dataclass
class Curve:
    """A run under one policy, as far as it has come."""

    policy: str
    n_steps: int = 0  # of the whole run
    notes: Sequence[str] = ()  # what the run does otherwise than its recipe says
    steps: list[int] = field(default_factory=list)  # 1, 2, 3, ...
    losses: list[float] = field(default_factory=list)  # of each step's batch, nats a token
    scales: list[float] = field(default_factory=list)  # of each step's loss
    skipped: list[int] = field(default_factory=list)  # steps whose gradient was not finite
    val_losses: list[tuple[int, float]] = field(default_factory=list)  # (steps taken, loss)
    seconds: float = 0.0  # of the steps, evaluations included
    stopped: str = ""  # why, where the run could not go on

    @property
    def end_loss(self) -> float | None:
        """The mean of the last steps' losses."""
        return fmean(self.losses[-LAST_STEPS:]) if self.losses else None


def train_under(
    recipe: Recipe, policy: str, backend: Backend, *, kernels: str, init: Path | None, cache: Path
) -> Iterator[Curve]:
    """Train under a policy.

    Args:
        recipe: what to do; its own policy is not read, and no samples are drawn.
        policy: the policy's text. Master weights are float32 whatever it says of `param`.
        backend: where.
        kernels: "fused" or "portable".
        init: the files of the model that the recipe goes on from, or None.
        cache: folder for tokens that are worth keeping.

    Yields:
        The curve, after each step; one and the same object.

    Raises:
        XplmError: the recipe, the data or the policy is not fit for it. A loss that does not stay finite ends the
            curve, and is said in it.
    """
    text = str(Policy.parse(policy))
    rt = make_runtime(backend, training_policy(Policy.parse(policy)), kernels)
    plan = replace(recipe, train=replace(recipe.train, policy=text, sample_prompts=()))
    with tempfile.TemporaryDirectory() as scratch:
        trainer = prepare(
            plan,
            rt,
            RunDirectory(Path(scratch) / "run"),
            init=init,
            resume=False,
            cache=cache,
            progress=lambda what, n_bytes, total_bytes: None,
        )
        try:
            yield from _follow(trainer, Curve(text, trainer.job.steps, trainer.job.notes))
        finally:
            trainer.close()


def _follow(trainer: Trainer, curve: Curve) -> Iterator[Curve]:
    """Take every step, and note what it came to."""
    started, scale = perf_counter(), trainer.state.scale.scale
    try:
        for progress in trainer.run():
            if progress.report is not None:
                curve.steps.append(progress.step)
                curve.losses.append(progress.report.loss)
                curve.scales.append(scale)
                if progress.report.is_skipped:
                    curve.skipped.append(progress.step)
            if progress.is_evaluated and progress.evaluation is not None:
                curve.val_losses.append((progress.step, progress.evaluation.loss))
            scale = progress.loss_scale
            curve.seconds = perf_counter() - started
            yield curve
    except RequestError as error:
        curve.stopped = str(error)
        yield curve


def row(curve: Curve, reference: Curve) -> dict[str, Any]:
    """A curve's figures by name, as the table, the JSON file and the picture take them."""
    ends = curve.val_losses[-1][1] if curve.val_losses else None
    other = dict(reference.val_losses).get(curve.val_losses[-1][0]) if curve.val_losses else None
    return {
        "policy": curve.policy,
        "steps": len(curve.steps),
        "train_loss": curve.end_loss,
        "val_loss": ends,
        "val_loss_off_reference": None if ends is None or other is None else ends - other,
        "skipped": len(curve.skipped),
        "loss_scale": curve.scales[-1] if curve.scales else None,
        "seconds": curve.seconds,
        "stopped": curve.stopped,
        "losses": curve.losses,
        "scales": curve.scales,
        "skipped_steps": curve.skipped,
        "val_losses": [{"step": step, "loss": loss} for step, loss in curve.val_losses],
    }

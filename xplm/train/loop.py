"""The training loop: step, measure, evaluate, save, in an order that a resumed run repeats exactly.

The loop is an iterator. Who drives it shows what it yields, and may stop between any two steps; `save` then writes a
checkpoint from which the run goes on as if it had never stopped. Evaluation and samples only read the weights.
"""

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from xplm.errors import CheckpointError, RequestError
from xplm.generate.engine import Engine
from xplm.out_of_memory import memory_faults
from xplm.text.tokenizer import Tokenizer
from xplm.train.curves import can_draw, draw_curves
from xplm.train.data import Dataset
from xplm.train.evaluate import Evaluation, evaluate
from xplm.train.metrics import JsonLines, Metrics, read_lines
from xplm.train.recipe import Recipe
from xplm.train.run_directory import CURVES, METRICS, SAMPLES, RunDirectory
from xplm.train.samples import Sample, draw_samples
from xplm.train.state import TrainState
from xplm.train.step import StepReport, Task, pass_params, train_step

_log = logging.getLogger(__name__)

RECENT_STEPS = 20
"""Steps that the speed is taken from."""

SECONDS_BETWEEN_DRAWINGS = 20.0
"""A drawing takes up to a second, which may be many steps."""


@dataclass(frozen=True)
class Job:
    """A run's parts, none of which changes while it runs."""

    recipe: Recipe
    task: Task
    dataset: Dataset
    tokenizer: Tokenizer
    steps: int  # of the whole run
    write_model: Callable[[Path, TrainState], None]  # writes what the run makes into a directory
    notes: Sequence[str] = ()  # what it does otherwise than its recipe says, for the user


class TrainProgress(NamedTuple):
    """Where a run is after a step, or before the first."""

    step: int  # steps taken
    report: StepReport | None  # of the step
    evaluation: Evaluation | None  # the newest
    is_evaluated: bool  # just now
    samples: Sequence[Sample]  # drawn just now
    loss_scale: float  # of the next step
    skipped: int  # steps that overflowed, in the whole run
    tokens_per_s: float | None  # lately
    seconds_left: float | None  # at that speed, evaluations left out


class Trainer:
    """The owner of a run: its state and its files."""

    def __init__(self, job: Job, directory: RunDirectory, state: TrainState) -> None:
        """Take a run up.

        Args:
            job: what to do.
            directory: where to; begun.
            state: the first, or the newest checkpoint's. One that has all the steps stays as it is.
        """
        self.is_over = state.step >= job.steps
        self.job = job
        self.directory = directory
        self.state = state
        # Steps that a killed run took beyond its checkpoint are taken again, and so is the first evaluation.
        upto = sys.maxsize if self.is_over else state.step or -1
        self._metrics = JsonLines(directory.path / METRICS, upto=upto)
        self._samples = JsonLines(directory.path / SAMPLES, upto=upto)
        self._speeds: deque[tuple[int, float]] = deque(maxlen=RECENT_STEPS)  # (tokens, seconds)
        self._evaluation: Evaluation | None = None
        self._draws = can_draw()
        self._drawn_at = (
            perf_counter()
        )  # a run that is over before the first drawing has its last alone
        self._is_drawn = self.is_over  # as far as the metrics go

    def run(self) -> Iterator[TrainProgress]:
        """Train to the end of the run.

        Yields:
            After each step, and before the first of a fresh run.

        Raises:
            RequestError: the loss, of training or of validation, is not finite.
            CheckpointError: the disk refuses; the checkpoints before are whole.
            DataError: the tokens were changed meanwhile; the checkpoints before are whole.
            OutOfMemoryError: a step does not fit the memory; the checkpoints before are whole.
        """
        advice = "lower data.batch_size or data.context; the checkpoints before are whole"
        with memory_faults(self.job.task.rt.backend, "a training step", advice):
            yield from self._run()

    def _run(self) -> Iterator[TrainProgress]:
        job, recipe = self.job, self.job.recipe
        if self.is_over:
            return
        if self.state.step == 0:
            yield self._evaluate(None)
        while self.state.step < job.steps:
            started = perf_counter()
            step = self.state.step
            batches = [job.dataset.batch(step, i) for i in range(recipe.data.accumulation)]
            self.state, report = train_step(job.task, self.state, batches)
            self._speeds.append((report.n_tokens, perf_counter() - started))
            if not report.is_skipped:
                self.state = self.state.with_loss(report.loss, report.n_targets)

            step = self.state.step
            if step == job.steps or step % recipe.train.eval_every == 0:
                yield self._evaluate(report)
                continue
            if step % recipe.train.log_every == 0:
                self._log(report, None)
            yield self._progress(report)
        self.save()

    def save(self) -> Path:
        """Write a checkpoint of now, unless it is there already."""
        return self.directory.save(
            self.state,
            self.job.task.rt,
            lambda path: self.job.write_model(path, self.state),
            keep=self.job.recipe.train.keep,
        )

    def close(self) -> None:
        """Draw the curves a last time, close the files, and let others have the directory."""
        if not self._is_drawn:
            self._draw()
        self._metrics.close()
        self._samples.close()
        self.directory.release()

    def _evaluate(self, report: StepReport | None) -> TrainProgress:
        """Score the held-out data, write samples, save. The state remembers the best score."""
        task, train = self.job.task, self.job.recipe.train
        params = pass_params(task, self.state.weights)
        batches = self.job.dataset.validation(train.eval_batches)
        evaluation = evaluate(task.rt, task.config, params, batches)
        if evaluation.n_targets and not isfinite(evaluation.loss):
            raise RequestError(
                f"the validation loss must stay finite; after step {self.state.step} it is {evaluation.loss}; "
                "the checkpoints before are whole; lower schedule.lr, or train with policy bf16 or fp32"
            )
        if evaluation.loss < self.state.best_loss:  # never true of NaN, which no target gives
            self.state = replace(self.state, best_loss=evaluation.loss, best_step=self.state.step)
        self._evaluation = evaluation if evaluation.n_targets else None

        samples = draw_samples(
            Engine(task.rt, task.config, params),
            self.job.tokenizer,
            train.sample_prompts,
            train.sampling,
            chat=self.job.recipe.data.kind == "chat",
            step=self.state.step,
        )
        for sample in samples:
            self._samples.append(sample)
        self._log(report, self._evaluation)
        if report is not None:
            self.save()
        return self._progress(report)._replace(is_evaluated=True, samples=samples)

    def _log(self, report: StepReport | None, evaluation: Evaluation | None) -> None:
        """Write a line of metrics, and draw the curves now and then."""
        n_targets = self.state.line_targets
        train_loss = self.state.line_loss / n_targets if n_targets else None
        self.state = replace(self.state, line_loss=0.0, line_targets=0)
        metrics = Metrics(
            step=self.state.step,
            train_loss=train_loss,
            val_loss=evaluation.loss if evaluation else None,
            val_accuracy=evaluation.accuracy if evaluation else None,
            perplexity=evaluation.perplexity if evaluation else None,
            lr=report.lr if report else None,
            grad_norm=report.grad_norm if report and isfinite(report.grad_norm) else None,
            tokens_per_s=self._tokens_per_s(),
            loss_scale=self.state.scale.scale,
        )
        self._metrics.append(metrics)
        self._is_drawn = False
        if perf_counter() - self._drawn_at > SECONDS_BETWEEN_DRAWINGS:
            self._draw()

    def _progress(self, report: StepReport | None) -> TrainProgress:
        state = self.state
        seconds = [seconds for _, seconds in self._speeds]
        left = (self.job.steps - state.step) * sum(seconds) / len(seconds) if seconds else None
        return TrainProgress(
            step=state.step,
            report=report,
            evaluation=self._evaluation,
            is_evaluated=False,
            samples=(),
            loss_scale=state.scale.scale,
            skipped=state.scale.skipped,
            tokens_per_s=self._tokens_per_s(),
            seconds_left=left,
        )

    def _tokens_per_s(self) -> float | None:
        seconds = sum(seconds for _, seconds in self._speeds)
        return sum(tokens for tokens, _ in self._speeds) / seconds if seconds else None

    def _draw(self) -> None:
        if not self._draws:
            return
        path = self.directory.path
        try:
            draw_curves(path / CURVES, read_lines(path / METRICS))
        except CheckpointError as error:  # a run is worth more than its picture
            self._draws = False
            _log.warning("no more curves are drawn: %s", error)
        self._drawn_at, self._is_drawn = perf_counter(), True

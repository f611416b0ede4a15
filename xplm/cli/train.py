"""`xplm train`: learn a model from a recipe, in sight of the user."""

import os
import shlex
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn
from rich.table import Column

from xplm.cli.ahead import compile_ahead
from xplm.cli.dry_run import show_dry_run
from xplm.cli.entry import INTERRUPTED
from xplm.cli.flags import RecipeArgument, WhereFlags, takes_flags
from xplm.cli.output import Output, OutputFlags
from xplm.cli.places import home, token_cache
from xplm.cli.progress import pull_with_progress
from xplm.errors import DownloadError, RequestError
from xplm.params import count_params
from xplm.precision import Policy
from xplm.runtime import Runtime
from xplm.text.trainable import TOKENIZER_KINDS
from xplm.train import loop
from xplm.train.curves import INSTALL, can_draw
from xplm.train.metrics import read_lines
from xplm.train.prepare import prepare, read_material
from xplm.train.recipe import Recipe, differences, load_recipe, parse_setting
from xplm.train.run_directory import METRICS, RECIPE, RunDirectory
from xplm.train.task import training_policy

RUNS = Path("runs")


@takes_flags
def train(
    where: WhereFlags,
    output: OutputFlags,
    recipe: RecipeArgument,
    data: Annotated[
        Path | None, typer.Option(help="Text, a folder, JSON lines or a JSON list.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's directory; if not given, runs/NAME.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Updates of the whole run.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Predict the peak of memory, take two steps, keep nothing."),
    ] = False,
    init: Annotated[
        str | None, typer.Option(help="Fine-tune this model: a name, or a directory.")
    ] = None,
    lora: Annotated[
        int | None, typer.Option(min=1, help="Train adapters of this rank instead of weights.")
    ] = None,
    vocab_size: Annotated[int | None, typer.Option(min=1, help="Of a bpe tokenizer.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of weights, order and dropout.")] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="fp32, fp16, bf16, tf32, fp8, ...; then exceptions: bf16,softmax=bf16."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any value, as in train.ema=0.999."),
    ] = None,
) -> None:
    """Train a model, or go on training one.

    The run's directory gets metrics.jsonl, curves.png, checkpoints, and the newest model, which transformers loads.
    Ctrl-C saves and stops.

    Example: xplm train shakespeare-char --data tinyshakespeare.txt
    """
    if dry_run and resume:
        raise RequestError(
            "--dry-run tries out a run from its beginning; got --resume too; leave out one of them"
        )
    show = Output(output)
    flags = {
        "data.path": data and str(data),
        "data.vocab_size": vocab_size,
        "train.steps": steps,
        "train.init": init,
        "train.lora": lora,
        "train.seed": seed,
        "train.policy": policy,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    plan = load_recipe(recipe, given | dict(parse_setting(text) for text in settings or []))
    rt = where.runtime(training_policy(Policy.parse(plan.train.policy)))
    directory = RunDirectory(out or RUNS / recipe.stem)
    if resume:
        _say_what_resumes(directory, plan, show)
    # A run that trains weights has them all in its checkpoints; adapters need the model that they belong to.
    has_begun = resume and directory.newest is not None
    needs_base = plan.train.init and not (has_begun and not plan.train.lora)
    base = pull_with_progress(plan.train.init, home(), show) if needs_base else None
    is_made = plan.train.init or plan.data.tokenizer_name in TOKENIZER_KINDS
    tokenizer_of = None
    if not is_made and not has_begun:
        tokenizer_of = _pull_tokenizer(plan.data.tokenizer_name, show)
    if dry_run:
        _try_out(plan, rt, base, tokenizer_of, show)
        return
    with Reading(show) as reading:
        trainer = prepare(
            plan,
            rt,
            directory,
            init=base,
            resume=resume,
            cache=token_cache(show),
            progress=reading.report,
            tokenizer_of=tokenizer_of,
        )
    if not trainer.is_over:
        compile_ahead(rt, "train", plan.model.arch)
    if not _watch(trainer, show):
        step = trainer.state.step
        again = ["xplm", "train", str(directory.path / RECIPE), "--out", str(directory.path)]
        how = shlex.join([*again, *where.not_default(), "--resume"])
        print(f"stopped and saved after step {step}; to go on: {how}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    _show_end(trainer, show)


class Interrupt:
    """Ctrl-C as a question: the first asks to stop, the second stops at once."""

    def __init__(self) -> None:
        """Not asked yet."""
        self.is_asked = False

    def __enter__(self) -> "Interrupt":
        """Listen."""
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.is_asked = True
        print("stopping after this step, saving; Ctrl-C again stops at once", file=sys.stderr)
        signal.signal(signal.SIGINT, self._before)


class Reading:
    """A progress bar of what is read before training, which shows itself when something is."""

    def __init__(self, show: Output) -> None:
        """Show nothing yet."""
        self._show = show
        self._stack = ExitStack()
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Reading":
        """Begin."""
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        self._bar = Progress(*columns, console=self._show.stderr, transient=True)
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        self._stack.close()

    def report(self, what: str, n_bytes: int, total_bytes: int | None) -> None:
        """Show how far reading is."""
        if not self._show.shows_progress:
            return
        if not self._tasks:
            self._stack.enter_context(self._bar)
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what)
        self._bar.update(self._tasks[what], completed=n_bytes, total=total_bytes)


def _try_out(
    plan: Recipe, rt: Runtime, base: Path | None, tokenizer_of: Path | None, show: Output
) -> None:
    """Show what a run would do and take."""
    with Reading(show) as reading:
        material = read_material(
            plan,
            rt,
            init=base,
            cache=token_cache(show),
            progress=reading.report,
            tokenizer_of=tokenizer_of,
        )
    for note in material.notes:
        show.note(note)
    show_dry_run(material, show)


def _watch(trainer: loop.Trainer, show: Output) -> bool:
    """Say what is trained, and train; return whether the run came to its end."""
    if not trainer.is_over:
        n_params = count_params(trainer.job.task.specs)
        place = trainer.directory.path
        show.note(f"{n_params:,} parameters, {trainer.job.steps:,} steps, into {place}")
        if not can_draw():
            show.note(f"no curves.png, which needs matplotlib: {INSTALL}")
    for note in trainer.job.notes:
        show.note(note)
    try:
        return _run(trainer, show)
    finally:
        trainer.close()


def _run(trainer: loop.Trainer, show: Output) -> bool:
    """Drive the loop; return whether it came to its end."""
    bar = live_line(show.stderr, is_shown=show.shows_progress)
    steps = trainer.job.steps
    with Interrupt() as interrupt, bar:
        task = bar.add_task("", total=steps, completed=trainer.state.step)
        for progress in trainer.run():
            bar.update(task, completed=progress.step, description=describe(progress, steps))
            if progress.is_evaluated:
                show.note(describe(progress, steps))
                for sample in progress.samples:
                    show.note(f"    {sample.prompt!r} -> {sample.text!r}")
            if interrupt.is_asked:
                trainer.save()
                return False
    return True


def live_line(console: Console, *, is_shown: bool) -> Progress:
    """A bar and a description, which a terminal too narrow for it shows on two lines: its end is the time left."""
    line = TextColumn("{task.description}", table_column=Column(no_wrap=False))
    return Progress(
        BarColumn(bar_width=20), line, console=console, transient=True, disable=not is_shown
    )


def describe(progress: loop.TrainProgress, steps: int) -> str:
    """A run's state on one line."""
    parts = [f"step {progress.step}/{steps}"]
    if report := progress.report:
        parts.append(f"loss {report.loss:.4f}")
    if evaluation := progress.evaluation:
        parts.append(f"validation {evaluation.loss:.4f}")
    if report:
        parts += [f"lr {report.lr:.2e}", f"gradient {report.grad_norm:.2f}"]
    if progress.tokens_per_s:
        parts.append(f"{progress.tokens_per_s:,.0f} tokens/s")
    if progress.skipped:
        parts.append(f"{progress.skipped} skipped, scale {progress.loss_scale:g}")
    if progress.seconds_left:
        minutes, seconds = divmod(round(progress.seconds_left), 60)
        hours, minutes = divmod(minutes, 60)
        parts.append(f"{hours}:{minutes:02}:{seconds:02} left")
    return "  ".join(parts)


def _pull_tokenizer(name: str, show: Output) -> Path:
    """The files of the model whose tokenizer is to be taken."""
    try:
        return pull_with_progress(name, home(), show)
    except DownloadError as error:
        kinds = ", ".join(TOKENIZER_KINDS)
        raise DownloadError(f"data.tokenizer is {kinds} or a model's: {error}") from error


def _say_what_resumes(directory: RunDirectory, plan: Recipe, show: Output) -> None:
    """Say where a run goes on, and what is otherwise than it was."""
    if not os.path.exists(directory.path):
        return
    if not directory.checkpoints:
        show.note(f"{directory.path} holds no checkpoint yet; starting from the beginning")
        return
    show.note(f"going on from step {max(directory.checkpoints)}")
    for change in differences(directory.recipe or plan, plan):
        show.note(f"otherwise than before: {change}")


def _show_end(trainer: loop.Trainer, show: Output) -> None:
    directory = trainer.directory
    lines = read_lines(directory.path / METRICS)
    last: dict[str, Any] = {}
    for line in lines:  # of each metric, the last that was measured
        last |= {name: value for name, value in line.items() if value is not None}
    show.line(str(directory.path))
    show.result(
        {
            "path": str(directory.path),
            "parameters": count_params(trainer.job.task.specs),
            "best_step": trainer.state.best_step,
            "skipped_steps": trainer.state.scale.skipped,
            **last,
        }
    )

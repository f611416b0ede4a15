"""`xplm precision train`: one recipe's training curves under several policies."""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from xplm.cli.entry import INTERRUPTED
from xplm.cli.experiment import (
    Figures,
    Picture,
    Policies,
    check_policies,
    number,
    require_picture,
    table,
    write_figures,
)
from xplm.cli.flags import RecipeArgument, WhereFlags, takes_flags
from xplm.cli.output import Output, OutputFlags
from xplm.cli.places import home, token_cache
from xplm.cli.progress import pull_with_progress
from xplm.errors import RequestError
from xplm.numerics.policies.picture import draw_training
from xplm.numerics.policies.training import Curve, row, train_under
from xplm.train.recipe import Recipe, load_recipe, parse_setting

POLICIES = ("fp32", "bf16", "fp16", "bf16,norm=bf16", "bf16,softmax=bf16")
HEADINGS = (
    "policy", "steps", "loss", "held out", "less the first's", "skipped", "loss scale", "seconds",
)  # fmt: skip


@takes_flags
def train(
    where: WhereFlags,
    output: OutputFlags,
    recipe: RecipeArgument,
    policies: Policies = None,
    data: Annotated[Path | None, typer.Option(help="Instead of the recipe's.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Updates of each run, instead of the recipe's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of weights, order and dropout.")] = None,
    init: Annotated[
        str | None, typer.Option(help="Fine-tune this model: a name, or a directory.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any value, as in train.dropout=0.1."),
    ] = None,
    figures: Figures = None,
    png: Picture = None,
) -> None:
    """Train one recipe under several policies: same first weights, same batches.

    The first policy is what the others are compared with. "loss" is the mean of the last 20 steps' batches, "held out"
    the loss on text held out, at the end.

    Ctrl-C prints and keeps the curves so far.

    Example: xplm precision train shakespeare-char --data book.txt --steps 200 fp32 bf16 fp16
    """
    out = Output(output)
    require_picture(png)
    names = check_policies(where, policies or POLICIES)
    flags = {
        "data.path": data and str(data),
        "train.steps": steps,
        "train.seed": seed,
        "train.init": init,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    plan = make_plan(recipe, given | dict(parse_setting(text) for text in settings or []))
    base = pull_with_progress(plan.train.init, home(), out) if plan.train.init else None
    backend, cache = where.runtime("fp32").backend, token_cache(out)

    about = {"recipe": str(recipe), "data": plan.data.path, "steps": plan.train.steps}
    about |= {"seed": plan.train.seed, "kernels": where.kernel_table}
    curves: dict[str, Curve] = {}

    def result() -> dict[str, Any]:
        found = list(curves.values())
        return {"settings": about, "policies": [row(curve, found[0]) for curve in found]}

    def write(curve: Curve) -> None:
        curves[curve.policy] = curve
        if len(curve.steps) == curve.n_steps or curve.stopped:
            write_figures(figures, result())

    is_done = True
    try:
        for policy in names:
            is_first = policy == names[0]
            running = train_under(
                plan, policy, backend, kernels=where.kernel_table, init=base, cache=cache
            )
            follow(running, out, write, shows_notes=is_first)
    except KeyboardInterrupt:
        is_done = False
        print("stopped", file=sys.stderr)
    if curves:
        made = result()
        write_figures(figures, made)
        out.line(table(HEADINGS, [cells(row) for row in made["policies"]]))
        for stopped in made["policies"]:
            if stopped["stopped"]:
                out.line(f"{stopped['policy']}: {stopped['stopped']}")
        if png:
            draw_training(png, made["policies"], f"{recipe.stem}, seed {plan.train.seed}")
        out.result(made)
    if not is_done:
        raise typer.Exit(INTERRUPTED)


def make_plan(recipe: Path, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with these settings.

    Raises:
        RequestError: it cannot be read, or adapters are to be trained without a model.
    """
    plan = load_recipe(recipe, settings)
    if plan.train.lora and not plan.train.init:
        raise RequestError("adapters go on from a model; give --init")
    if "train.steps" in settings and "train.eval_every" not in settings:  # the end always is
        plan = replace(plan, train=replace(plan.train, eval_every=max(1, plan.train.steps // 5)))
    return plan


def follow(
    curves: Iterable[Curve], out: Output, write: Callable[[Curve], None], *, shows_notes: bool
) -> None:
    """Train under one policy, in sight of the user."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=out.stderr, transient=True, disable=not out.shows_progress)
    with bar:
        task = bar.add_task("")
        for curve in curves:
            if shows_notes:
                for note in curve.notes:
                    out.note(note)
                shows_notes = False
            done = len(curve.steps)
            bar.update(task, completed=done, total=curve.n_steps, description=describe(curve))
            if done == curve.n_steps or curve.stopped:
                out.note(curve.stopped or describe(curve))
            write(curve)


def describe(curve: Curve) -> str:
    """A run's state on one line."""
    loss = f", loss {curve.losses[-1]:.4f}" if curve.losses else ""
    return f"{curve.policy}: step {len(curve.steps)} of {curve.n_steps}{loss}"


def cells(row: Mapping[str, Any]) -> list[object]:
    """A line of the table."""
    return [
        row["policy"],
        row["steps"],
        number(row["train_loss"], ".4f"),
        number(row["val_loss"], ".4f"),
        number(row["val_loss_off_reference"], "+.4f"),
        row["skipped"],
        number(row["loss_scale"], "g"),
        number(row["seconds"], ".1f"),
    ]

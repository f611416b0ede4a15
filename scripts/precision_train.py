r"""One recipe trained under several policies: same weights to begin with, same batches; what the precision changes.

    python scripts/precision_train.py scripts/recipes/shakespeare-char.toml --data book.txt --steps 200 \\
        --policies fp32 bf16 fp16 bf16,norm=bf16

The first policy is what the others are compared with. "loss" is the mean of the last 20 steps' batches, "held out" the
loss on text held out at the end. Ctrl-C prints and keeps the curves so far. Exit codes: 0 done, 2 bad input, 130
interrupted.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from xplm.cli import experiment
from xplm.cli.output import Output
from xplm.cli.places import home
from xplm.cli.progress import pull_with_progress
from xplm.errors import RequestError
from xplm.numerics.policies.picture import draw_training
from xplm.numerics.policies.training import Curve, row, train_under
from xplm.train.recipe import Recipe, load_recipe, parse_setting

POLICIES = ("fp32", "bf16", "fp16", "bf16,norm=bf16", "bf16,softmax=bf16")
HEADINGS = (
    "policy", "steps", "loss", "held out", "less the first's", "skipped", "loss scale", "seconds",
)  # fmt: skip


def parse() -> argparse.Namespace:
    """The command line."""
    parser = experiment.make_parser(__doc__)
    experiment.add_picture(parser)
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="a TOML file")
    parser.add_argument("--data", type=Path, help="what to learn from, instead of the recipe's")
    parser.add_argument("--policies", nargs="+", default=POLICIES, metavar="POLICY")
    parser.add_argument("--steps", type=int, help="updates of each run, instead of the recipe's")
    parser.add_argument("--seed", type=int, help="of weights, order and dropout")
    parser.add_argument("--init", help="go on from this model: a name, or a directory")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="as in train.dropout=0.1"
    )
    return parser.parse_args()


def make_plan(given: argparse.Namespace) -> Recipe:
    """The recipe with what the flags say."""
    flags = {
        "data.path": given.data and str(given.data),
        "train.steps": given.steps,
        "train.seed": given.seed,
        "train.init": given.init,
    }
    settings = {key: value for key, value in flags.items() if value is not None}
    settings |= dict(parse_setting(text) for text in given.set)
    plan = load_recipe(given.recipe, settings)
    if given.steps and "train.eval_every" not in settings:  # the end is evaluated in any case
        plan = replace(plan, train=replace(plan.train, eval_every=max(1, given.steps // 5)))
    return plan


def follow(curves: Any, show: Output, write: Any) -> None:
    """Train under one policy, in sight of the user."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=show.stderr, transient=True, disable=not show.shows_progress)
    with bar:
        task = bar.add_task("")
        for curve in curves:
            done = len(curve.steps)
            bar.update(task, completed=done, total=curve.n_steps, description=describe(curve))
            if done == curve.n_steps or curve.stopped:
                show.note(curve.stopped or describe(curve))
            write(curve)


def describe(curve: Curve) -> str:
    """A run's state on one line."""
    loss = f", loss {curve.losses[-1]:.4f}" if curve.losses else ""
    return f"{curve.policy}: step {len(curve.steps)} of {curve.n_steps}{loss}"


def print_rows(rows: list[dict[str, Any]]) -> None:
    """The table, and why a run ended early."""
    number = experiment.number
    cells = [
        [
            r["policy"],
            r["steps"],
            number(r["train_loss"], ".4f"),
            number(r["val_loss"], ".4f"),
            number(r["val_loss_off_reference"], "+.4f"),
            r["skipped"],
            number(r["loss_scale"], "g"),
            number(r["seconds"], ".1f"),
        ]
        for r in rows
    ]
    experiment.print_table(HEADINGS, cells)
    for r in rows:
        if r["stopped"]:
            print(f"{r['policy']}: {r['stopped']}")


def main() -> int:
    """Train, write, print."""
    given = parse()
    place, show = experiment.where(given), experiment.output(given)
    experiment.require_picture(given.png)
    policies = experiment.policies(place, given.policies)
    plan = make_plan(given)
    if plan.train.lora and not plan.train.init:
        raise RequestError("adapters go on from a model; give --init")
    init = pull_with_progress(plan.train.init, home(), show) if plan.train.init else None
    backend = place.runtime("fp32").backend

    curves: dict[str, Curve] = {}

    def rows() -> list[dict[str, Any]]:
        found = list(curves.values())
        return [row(curve, found[0]) for curve in found]

    def write(curve: Curve) -> None:
        curves[curve.policy] = curve
        if len(curve.steps) == curve.n_steps or curve.stopped:
            experiment.write_figures(given.json, {"settings": settings, "policies": rows()})

    settings = {key: value for key, value in vars(given).items() if key not in ("json", "png")}
    settings |= {"recipe": str(given.recipe), "data": plan.data.path}
    is_done = True
    try:
        for policy in policies:
            running = train_under(
                plan, policy, backend, kernels=given.kernels, init=init, cache=home() / "tokens"
            )
            follow(running, show, write)
    except KeyboardInterrupt:
        is_done = False
        print("stopped", file=sys.stderr)
    if curves:
        experiment.write_figures(given.json, {"settings": settings, "policies": rows()})
        print_rows(rows())
        if given.png:
            draw_training(given.png, rows(), f"{given.recipe.stem}, seed {plan.train.seed}")
    return 0 if is_done else experiment.INTERRUPTED


if __name__ == "__main__":
    experiment.run(main)

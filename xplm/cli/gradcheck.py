"""`xplm gradcheck`: hand-derived gradients against central differences."""

import string
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from xplm.backend import Backend, load_backend
from xplm.cli.flags import WhereFlags, takes_flags
from xplm.cli.output import Output, OutputFlags
from xplm.errors import RequestError, did_you_mean
from xplm.models.decoder import param_specs
from xplm.numerics.check_layers import LAYERS, VARIANTS, check_layer
from xplm.numerics.check_model import check_model
from xplm.numerics.check_ops import check_op
from xplm.numerics.gradient_check import MODEL_LIMIT, OP_LIMIT, GradientError
from xplm.numerics.op_cases import OPS
from xplm.numerics.tiny_models import TINY_MODELS, tiny_config
from xplm.params import count_params
from xplm.progress import OnProgress, unseen
from xplm.runtime import make_runtime
from xplm.text.trainable import train_tokenizer
from xplm.train.architecture import make_config
from xplm.train.recipe import load_recipe

SMALL_MODEL = 5000
"""Parameters up to which all of a recipe's model are compared one by one; each costs four passes."""

ENTRIES = 6
"""Numbers of each parameter of a larger model that are."""

ALL = "all"

CHECKING_ALL = "checking ops, layers and models"

LABEL_WIDTHS = {"op": 32, "model": 50, "all": 76}
"""Columns for what is checked: of an op the table fits 80."""


class GradientRow(NamedTuple):
    """A line of the table."""

    kind: str  # the list of the JSON object that it belongs to
    name: str  # of what is checked
    gradient: str  # of that, the one that is furthest off; "" where the name says it
    n_cases: int
    n_compared: int  # numbers, each alone
    n_numbers: int  # there are
    error: float  # relative, the largest
    limit: float

    @property
    def label(self) -> str:
        """Name and gradient, in columns."""
        return f"{self.name:24}{self.gradient}" if self.gradient else self.name

    @property
    def numbers(self) -> str:
        """How many numbers were compared, and of how many."""
        if self.n_compared == self.n_numbers:
            return f"{self.n_compared}"
        return f"{self.n_compared} of {self.n_numbers}"

    @property
    def is_right(self) -> bool:
        """Whether the error is within the limit."""
        return self.error <= self.limit


@takes_flags
def gradcheck(
    where: WhereFlags,
    output: OutputFlags,
    op: Annotated[str | None, typer.Option(help=f"One of {', '.join(OPS)}.")] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="RECIPE", help="A training recipe: check the model that it trains."),
    ] = None,
    entries: Annotated[
        str | None,
        typer.Option(
            metavar="N|all",
            help="Numbers of each parameter to compare one by one; if not given, all, or "
            f"{ENTRIES} in a model of more than {SMALL_MODEL}.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the numbers that are compared.")] = 0,
) -> None:
    """Check gradients against central differences in float64.

    Without flags: every op, every layer, and a small model of each architecture.

    Where not all numbers of a parameter are compared one by one, a random direction through all of them is too.

    Exit code 1 where one is off by more than 1e-8 of its largest number (1e-6 in models).

    Example: xplm gradcheck --op attention
    """
    out = Output(output)
    if op is not None and model is not None:
        raise RequestError("a check is of an op or of a model; got --op and --model; give one")
    if op is not None and op not in OPS:
        raise RequestError(f'an op is one of {", ".join(OPS)}; got "{op}"{did_you_mean(op, OPS)}')
    if op is not None and entries is not None:
        raise RequestError("an op is checked at every number; got --op and --entries; give one")
    computer, kernels = (
        load_backend(where.backend, where.device, where.threads, where.blas),
        where.kernel_table,
    )
    if model is not None:
        width = LABEL_WIDTHS["model"]
        rows = recipe_rows(computer, kernels, model, seed, entries, out.waiting.report)
    elif op is not None:
        width = LABEL_WIDTHS["op"]
        rows = op_rows(computer, kernels, op, seed)
    else:
        width = LABEL_WIDTHS["all"]
        number = parse_entries(entries or ALL)
        rows = all_rows(computer, kernels, seed, number, out.waiting.report)

    shown: list[GradientRow] = []
    with computer.computing():
        for row in rows:
            if not shown:
                out.line(f"{'':{width}}{'cases':>6}{'numbers':>16}{'relative error':>16}")
            verdict = "right" if row.is_right else "WRONG"
            out.line(
                f"{row.label:{width}}{row.n_cases:6}{row.numbers:>16}{row.error:16.1e}   {verdict}"
            )
            shown.append(row)
    wrong = [f"{row.name} {row.gradient}".strip() for row in shown if not row.is_right]
    out.line()
    if wrong:
        out.line(f"{len(wrong)} of {len(shown)} are wrong: {', '.join(wrong)}.")
    else:
        out.line(f"All {len(shown)} are right, within {OP_LIMIT:g} (models {MODEL_LIMIT:g}).")
    out.result(as_json(shown))
    if wrong:
        raise typer.Exit(1)


def all_rows(
    backend: Backend, kernels: str, seed: int, entries: int | None, progress: OnProgress = unseen
) -> Iterator[GradientRow]:
    """Every op by argument, then every layer and every small model, each at its worst."""
    n_all = len(OPS) + len(LAYERS) + len(TINY_MODELS)
    for done, op in enumerate(OPS):
        progress(CHECKING_ALL, done, n_all)
        yield from op_rows(backend, kernels, op, seed)
    for done, layer in enumerate(LAYERS, len(OPS)):
        progress(CHECKING_ALL, done, n_all)
        checks = [check_layer(backend, kernels, layer, v, entries=entries) for v in VARIANTS]
        errors = [error for check in checks for error in check]
        yield _worst("layers", layer, len(checks), errors, OP_LIMIT)
    for done, (name, changes) in enumerate(TINY_MODELS.items(), len(OPS) + len(LAYERS)):
        progress(CHECKING_ALL, done, n_all)
        errors = check_model(backend, kernels, tiny_config(changes), entries=entries, seed=seed)
        yield _worst("models", name, 1, errors, MODEL_LIMIT)
    progress(CHECKING_ALL, n_all, n_all)


def op_rows(backend: Backend, kernels: str, op: str, seed: int) -> Iterator[GradientRow]:
    """One op, a row an argument."""
    table = make_runtime(backend, "fp64", kernels).kernels
    found = check_op(backend, table, op, seed=seed)
    for argument in OPS[op].gradients:
        errors = [error for _, error in found if error.argument == argument]
        yield _worst("ops", op, len(errors), errors, OP_LIMIT)


def recipe_rows(
    backend: Backend,
    kernels: str,
    path: Path,
    seed: int,
    entries: str | None,
    progress: OnProgress = unseen,
) -> Iterator[GradientRow]:
    """The model of a recipe, a row a parameter. Its vocabulary, which only data can tell, is printable ASCII.

    Raises:
        RequestError: the recipe cannot be read, or goes on from another model.
    """
    recipe = load_recipe(path, {"data.path": str(path)})
    if recipe.train.init:
        raise RequestError(
            f"a model to check is described by its recipe; {path} goes on from {recipe.train.init}; "
            "give the recipe that made that"
        )
    tokenizer = train_tokenizer("char", [string.printable])
    config = make_config(recipe.model, recipe.data.context, tokenizer)
    if entries is None:
        entries = ALL if count_params(param_specs(config)) <= SMALL_MODEL else str(ENTRIES)
    for error in check_model(
        backend,
        kernels,
        config,
        entries=parse_entries(entries),
        label_smoothing=recipe.train.label_smoothing,
        z_loss=recipe.train.z_loss,
        recompute=recipe.train.recompute,
        seed=seed,
        progress=progress,
    ):
        compared = (error.n_compared, error.n_numbers)
        yield GradientRow("ops", error.argument, "", 1, *compared, error.error, MODEL_LIMIT)


def parse_entries(text: str) -> int | None:
    """The number in N|all; None for all.

    Raises:
        RequestError: it is neither.
    """
    if text == ALL:
        return None
    if not text.isdecimal() or not 0 < int(text) <= sys.maxsize:
        raise RequestError(f'--entries is a number from 1, or "{ALL}"; got "{text}"')
    return int(text)


def as_json(rows: list[GradientRow]) -> dict[str, Any]:
    """The largest error of every op, layer and model."""
    errors: dict[str, dict[str, float]] = {"ops": {}}
    for row in rows:
        known = errors.setdefault(row.kind, {})
        known[row.name] = max(known.get(row.name, 0.0), row.error)
    return {
        kind: [{"name": name, "max_relative_error": error} for name, error in known.items()]
        for kind, known in errors.items()
    }


def _worst(
    kind: str, name: str, n_cases: int, errors: list[GradientError], limit: float
) -> GradientRow:
    """The row of several gradients: the largest error, and how many numbers there were in all."""
    worst = max(errors, key=lambda e: e.error)
    compared = (sum(e.n_compared for e in errors), sum(e.n_numbers for e in errors))
    return GradientRow(kind, name, f"d{worst.argument}", n_cases, *compared, worst.error, limit)

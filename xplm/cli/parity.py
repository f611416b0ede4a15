"""`xplm parity`: is a difference between two array libraries, or two precisions, rounding or a bug?"""

import math
import string
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xplm.backend import default_backend, load_backend
from xplm.checkpoint.files import replacing, writing
from xplm.cli.flags import BLAS_HELP, takes_flags
from xplm.cli.output import Output, OutputFlags
from xplm.cli.places import home
from xplm.cli.progress import pull_with_progress
from xplm.config import DecoderConfig
from xplm.errors import RequestError
from xplm.language_model import load
from xplm.numerics.parity.bounds import unit_roundoff
from xplm.numerics.parity.certificate import certificate, drift_points
from xplm.numerics.parity.judge import BUG
from xplm.numerics.parity.page import TITLES, page, share_text
from xplm.numerics.parity.report import (
    Drifts,
    ParityRow,
    Setting,
    first_fault,
    layer_rows,
    model_rows,
    op_rows,
    optimizer_rows,
)
from xplm.numerics.parity.rounded import formats_of, require_known
from xplm.numerics.tiny_models import TINY_MODELS, tiny_config
from xplm.precision import SHORT_NAMES
from xplm.runtime import Runtime, make_runtime
from xplm.text.trainable import train_tokenizer
from xplm.threads import MOST_THREADS
from xplm.train.architecture import make_config
from xplm.train.recipe import load_recipe
from xplm.train.recipe_names import RECIPES

BAR_CELLS = 8
PART_WIDTH = 16
STYLES = {"exact": "green", "rounding": "green", BUG: "bold red"}
SMALL = "llama"


class Model(NamedTuple):
    """What is run on both sides."""

    name: str
    config: DecoderConfig
    params: Mapping[str, np.ndarray] | None  # on the host; None: drawn anew


@takes_flags
def parity(
    output: OutputFlags,
    test: Annotated[
        str,
        typer.Option(metavar="BACKEND:POLICY", help="What is under test, as in torch:bf16."),
    ],
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="BACKEND:POLICY",
            help="What errors are measured from; float64. If not given, the default backend of the CPU.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE_OR_NAME",
            help="A training recipe, or a model's name; if not given, a llama of two layers.",
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with the picture, too.")
    ] = None,
    device: Annotated[str, typer.Option(help="Of the test: cpu, cuda or cuda:N.")] = "cpu",
    kernels: Annotated[
        str, typer.Option(help="Of the test: fused, or portable: the reference source alone.")
    ] = "fused",
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_THREADS, help="CPU threads; if not given, one a core."),
    ] = None,
    blas: Annotated[str | None, typer.Option(help=f"Of the test. {BLAS_HELP}")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all numbers that are compared.")] = 0,
) -> None:
    """Run every op, layer, model and optimizer on both sides, and judge each tensor: exact, rounding, or a bug.

    The bound of a tensor follows from its formats and lengths, and from the numbers in it; no tolerance is chosen.

    Exit code 1 where something is a bug; the first op at fault is named.

    Example: xplm parity --test torch:bf16 --html parity.html
    """
    out = Output(output)
    if html is not None and not html.parent.is_dir():
        raise RequestError(f"--html must be in a directory that exists; got {html}; make it first")
    reference = reference or f"{default_backend('cpu')}:float64"
    setting, chosen = _setting(out, test, reference, model, device, kernels, threads, blas, seed)

    began = time.perf_counter()
    with setting.test.backend.computing(), setting.reference.backend.computing():
        rows, drifts = _measure(out, setting)
    made = certificate(setting, chosen.name, kernels, rows, time.perf_counter() - began)
    activations = formats_of(setting.test).compute
    made |= {
        "activations": activations.name,
        "growth": {d.name: drift_points(d) for d in drifts},
    }
    if html is not None:
        text = page(made, rows, drifts, unit_roundoff(activations))
        with writing(html), replacing(html) as file:
            file.write(text.encode())
    if not output.as_json:
        _print(Console(highlight=False), made, rows)
    out.result(made)
    if first_fault(rows):
        raise typer.Exit(1)


def parse_side(text: str) -> tuple[str, str]:
    """A backend's name and a policy, out of "torch:bf16" or "numpy:float64".

    Raises:
        RequestError: there are not two parts.
    """
    backend, colon, policy = text.partition(":")
    if not backend or not colon or not policy:
        raise RequestError(f'a side is BACKEND:POLICY, as in numpy:float64; got "{text}"')
    base, comma, rest = policy.partition(",")
    short = next((name for name, long in SHORT_NAMES.items() if long == base), base)
    return backend, f"{short}{comma}{rest}"


def find_model(out: Output, name: str | None) -> Model:
    """The model to run: a small one, a recipe's, or one with a name, which is fetched where it is not here.

    Raises:
        XplmError: there is no such model, or its recipe goes on from another one.
    """
    if name is None:
        return Model(f"{SMALL}, two layers", tiny_config(TINY_MODELS[SMALL]), None)
    if name in RECIPES or name.endswith(".toml"):
        recipe = load_recipe(name, {"data.path": name})
        if recipe.train.init:
            raise RequestError(
                f"a recipe's model is drawn anew; {name} goes on from {recipe.train.init}; "
                f"give --model {recipe.train.init}"
            )
        tokenizer = train_tokenizer("char", [string.printable])
        return Model(name, make_config(recipe.model, recipe.data.context, tokenizer), None)
    lm = load(pull_with_progress(name, home(), out), policy="fp32", progress=out.waiting.report)
    return Model(name, lm.config, {key: np.asarray(array) for key, array in lm.params.items()})


def _setting(
    out: Output,
    test: str,
    reference: str,
    model: str | None,
    device: str,
    kernels: str,
    threads: int | None,
    blas: str | None,
    seed: int,
) -> tuple[Setting, Model]:
    """What to compare, checked."""
    sides = []
    tested, judge = (test, device, kernels, blas), (reference, "cpu", "portable", None)
    for text, where, which, products in (tested, judge):
        name, policy = parse_side(text)
        sides.append(make_runtime(load_backend(name, where, threads, products), policy, which))
        require_known(sides[-1])
    test_side, reference_side = sides
    _require_float64(reference_side, reference)
    chosen = find_model(out, model)
    return Setting(test_side, reference_side, chosen.config, chosen.params, seed), chosen


def _require_float64(rt: Runtime, text: str) -> None:
    if set(rt.policy.dtypes) != {"float64"}:
        raise RequestError(
            f'the reference must compute in float64, as numpy:float64 does; got "{text}"'
        )


def _measure(out: Output, setting: Setting) -> tuple[list[ParityRow], list[Drifts]]:
    """Every row, said as it comes to those who watch."""
    rows: list[ParityRow] = []
    drifts: list[Drifts] = []

    def model() -> Iterator[ParityRow]:
        found, grown = model_rows(setting)
        drifts.extend(grown)
        yield from found

    parts = (op_rows(setting), layer_rows(setting), model(), optimizer_rows(setting))
    if not out.shows_progress:
        return [row for part in parts for row in part], drifts
    with out.stderr.status("...") as status:
        for part in parts:
            for row in part:
                rows.append(row)
                status.update(f"{row.kind}: {row.name}")
    return rows, drifts


def _print(console: Console, made: Mapping[str, object], rows: Sequence[ParityRow]) -> None:
    for kind, title in TITLES.items():
        own = [row for row in rows if row.kind == kind]
        console.print(Text(title, style="bold"))
        console.print(_table(own))
        console.print()

    fault = first_fault(rows)
    if fault is None:
        text = f"Every difference is rounding: {made['n_tensors']} tensors."
        console.print(Text(text, style="bold green"))
        return
    n_wrong = sum(row.is_bug for row in rows)
    console.print(Text(f"A BUG, first in: {fault.where}", style="bold red"))
    console.print(Text(f"  {fault.what}"))
    console.print(Text(f"  {n_wrong} of {len(rows)} rows are wrong.", style="dim"))


def _table(rows: Sequence[ParityRow]) -> Table:
    """Rows of one kind, in columns that are the same for all kinds and fit into 80 characters."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    for heading, width in (("", 22), ("", PART_WIDTH), ("verdict", 8), ("of bound", BAR_CELLS)):
        table.add_column(heading, width=width, no_wrap=True)
    for heading, width in (("", 5), ("error", 7), ("checks", 6)):
        table.add_column(heading, width=width, justify="right", no_wrap=True)
    before = ""
    for row in rows:
        table.add_row(*_cells(row, "" if row.name == before else row.name))
        before = row.name
    return table


def _cells(row: ParityRow, name: str) -> list[str | Text]:
    v = row.verdict
    kind = BUG if row.is_bug else v.kind
    style = STYLES[kind]
    filled = min(BAR_CELLS, math.ceil(BAR_CELLS * v.share)) if v.share < 1.0 else BAR_CELLS
    bar = Text("━" * filled, style=style) + Text("─" * (BAR_CELLS - filled), style="bright_black")
    error = "0" if v.error == 0.0 else f"{v.error:.1e}"
    part = ".".join(row.part.removesuffix(".weight").split(".")[-2:])
    part = part if len(part) <= PART_WIDTH else f"…{part[1 - PART_WIDTH :]}"
    tensors = Text(str(row.n_tensors), style="dim")
    return [
        f"  {name}",
        part,
        Text(kind, style=style),
        bar,
        share_text(v.share),
        error,
        tensors,
    ]

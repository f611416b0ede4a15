"""`xplm explain`: an op's formula, derivation, shapes, code, and an example in numbers."""

from functools import partial
from shutil import get_terminal_size
from textwrap import fill, indent
from typing import Annotated, Any

import numpy as np
import typer

from xplm.backend import load_backend
from xplm.cli.flags import takes_flags
from xplm.cli.output import Output, OutputFlags
from xplm.numerics.check_ops import OpRun
from xplm.numerics.explain import Explanation
from xplm.numerics.explain import explain as explain_op
from xplm.numerics.op_cases import OPS

STEP = "  "
SHAPES_FOLLOW = "   "  # what stands between a kernel's formula and its shapes
WIDEST = 100
"""Columns of text at most, and where nobody says how many the terminal has."""


@takes_flags
def explain(
    output: OutputFlags,
    op: Annotated[str, typer.Argument(help=f"One of {', '.join(OPS)}.")],
) -> None:
    """Show how an op works, forward and back.

    Its formula, the derivation of its gradient, its shapes, its code, and a small example with its gradient check.

    Example: xplm explain rms_norm
    """
    out = Output(output)
    found = explain_op(load_backend(), op)
    for line in page(found, min(WIDEST, get_terminal_size((WIDEST, 0)).columns)):
        out.line(line)
    out.result(as_json(found))


def page(found: Explanation, width: int) -> list[str]:
    """The explanation as lines of text.

    Args:
        found: what there is to say.
        width: columns for prose and numbers; code and formulas stay as they are written.
    """
    source = found.source
    digits = len(str(source.last_line))
    code = [
        f"{STEP}{number:{digits}}  {line}".rstrip()
        for number, line in enumerate(source.lines, source.first_line)
    ]
    arrays = ", ".join(found.run.args)
    turn = (
        f"Write forward({arrays}) and backward(dy, {arrays}) in NumPy into my_{found.op}.py, then:"
    )
    mistakes = [
        fill(says, width, initial_indent=f"{STEP}- ", subsequent_indent=STEP * 2)
        for says in dict.fromkeys(found.mistakes)
    ]

    lines = [found.op, "=" * len(found.op), fill(found.title, width), ""]
    lines.append(_wrapped(found.formula, width))
    lines += _section("Shapes", _shapes(found, width))
    lines += _section("Gradient", _wrapped(found.derivation, width))
    if found.numerics:
        lines += _section("Numerics", _wrapped(found.numerics, width))
    if found.sources:
        lines += _section("Source", _wrapped(found.sources, width))
    place = f"{source.path}:{source.first_line}-{source.last_line}"
    lines += _section(f"Code: {place}", "\n".join(code))
    lines += _section("Example", _example(found, width))
    lines += _section("Gradient check", _check(found.run, width))
    lines += _section("Known mistakes", "\n".join(mistakes))
    lines += _section(
        "Your turn", f"{fill(turn, width)}\n\n{STEP}{STEP}xplm grade my_{found.op}.py"
    )
    return lines


def as_json(found: Explanation) -> dict[str, Any]:
    """The explanation as one object."""
    run, source = found.run, found.source
    return {
        "op": found.op,
        "title": found.title,
        "formula": found.formula,
        "derivation": found.derivation,
        "numerics": found.numerics,
        "source": found.sources,
        "shapes": {"forward": found.forward, "backward": found.backward},
        "code": {
            "path": source.path,
            "first_line": source.first_line,
            "last_line": source.last_line,
        },
        "example": {
            "arguments": {name: array.tolist() for name, array in run.args.items()},
            "options": dict(found.example.options),
            "y": run.y.tolist(),
            "dy": run.dy.tolist(),
            "gradients": {f"d{name}": array.tolist() for name, array in run.gradients.items()},
        },
        "max_relative_error": max(error.error for error in run.errors),
        "mistakes": list(found.mistakes),
    }


def _section(heading: str, body: str) -> list[str]:
    return ["", heading, "-" * len(heading), body]


def _shapes(found: Explanation, width: int) -> str:
    """Each function's name, and under it what it says of its arrays."""
    below = partial(fill, width=width, initial_indent=STEP, subsequent_indent=STEP * 2)
    lines = []
    for suffix, says in ("fwd", found.forward), ("bwd", found.backward):
        lines.append(f"{found.op}_{suffix}")
        lines += [below(part) for part in says.split(SHAPES_FOLLOW)]
    if found.legend:
        lines.append(fill(f"where {found.legend}", width))
    return "\n".join(lines)


def _example(found: Explanation, width: int) -> str:
    run = found.run
    named = partial(_named, width=width - len(STEP))
    given = [named(name, array) for name, array in run.args.items()]
    given += [f"{name} = {value}" for name, value in found.example.options.items()]
    back = [named(f"d{name}", array) for name, array in run.gradients.items()]
    return "\n".join(
        [fill(found.example.label, width), "", "Forward, from"]
        + [*(indent(text, STEP) for text in given), "to"]
        + [indent(named("y", run.y), STEP), "", "Back, from"]
        + [indent(named("dy", run.dy), STEP), "to"]
        + [indent(text, STEP) for text in back]
    )


def _named(name: str, array: np.ndarray, width: int) -> str:
    """An array as numbers that are easy to read, its rows under one another."""
    numbers = np.array2string(
        array + 0.0 if array.dtype.kind == "f" else array,  # no -0
        precision=4,
        suppress_small=True,
        separator=" ",
        max_line_width=width,
        prefix=f"{name} = ",
    )
    return f"{name} = {numbers}"


def _check(run: OpRun, width: int) -> str:
    """The largest number of each gradient, by the formula and by differences, and how far all of them are apart."""
    lines = [
        fill(
            "Each gradient, at its largest number, against differences of sum(y * dy) in float64:",
            width,
        ),
        f"{'':18}{'by formula':>18}{'by differences':>18}{'relative error of all':>24}",
    ]
    for error in run.errors:
        by_formula, by_differences = (
            gradients[error.argument] for gradients in (run.gradients, run.differences)
        )
        largest = np.unravel_index(np.abs(by_formula).argmax(), by_formula.shape)
        place = ", ".join(str(i) for i in largest)
        lines.append(
            f"{f'd{error.argument}[{place}]':18}{by_formula[largest]:18.12f}"
            f"{by_differences[largest]:18.12f}{error.error:24.1e}"
        )
    return "\n".join(lines)


def _wrapped(text: str, width: int) -> str:
    """Prose at one width; formulas, which are indented, as they are."""
    return "\n\n".join(
        paragraph if "\n " in f"\n{paragraph}" else fill(paragraph, width)
        for paragraph in text.split("\n\n")
    )

"""`xplm explain`: an op's formula, derivation, shapes, code, and an example in numbers."""

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
WIDTH = 100


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
    found = explain_op(load_backend("numpy"), op)
    for line in page(found):
        out.line(line)
    out.result(as_json(found))


def page(found: Explanation) -> list[str]:
    """The explanation as lines of text."""
    source = found.source
    place = f"{source.path}:{source.first_line}-{source.last_line}"
    width = len(str(source.last_line))
    code = [
        f"{STEP}{number:{width}}  {line}".rstrip()
        for number, line in enumerate(source.lines, source.first_line)
    ]
    lines = [found.op, "=" * len(found.op), found.title, "", found.formula]
    lines += _section("Shapes", _shapes(found))
    lines += _section("Gradient", _wrapped(found.derivation))
    if found.numerics:
        lines += _section("Numerics", _wrapped(found.numerics))
    if found.sources:
        lines += _section("Source", _wrapped(found.sources))
    lines += _section(f"Code: {place}", "\n".join(code))
    lines += _section(f"Example: {found.example.label}", _example(found))
    lines += _section("Gradient check", _check(found.run))
    lines += _section(
        "Known mistakes", "\n".join(f"{STEP}- {says}" for says in dict.fromkeys(found.mistakes))
    )
    arrays = ", ".join(found.run.args)
    lines += _section(
        "Your turn",
        f"Write forward({arrays}) and backward(dy, {arrays}) in NumPy into my_{found.op}.py, then:\n\n"
        f"{STEP}{STEP}xplm grade my_{found.op}.py",
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


def _shapes(found: Explanation) -> str:
    lines = [f"{found.op}_fwd   {found.forward}", f"{found.op}_bwd   {found.backward}"]
    return "\n".join(lines + ([f"where {found.legend}"] if found.legend else []))


def _example(found: Explanation) -> str:
    run = found.run
    given = [_named(name, array) for name, array in run.args.items()]
    given += [f"{name} = {value}" for name, value in found.example.options.items()]
    back = [_named(f"d{name}", array) for name, array in run.gradients.items()]
    return "\n".join(
        ["Forward, from", *(indent(text, STEP) for text in given), "to"]
        + [indent(_named("y", run.y), STEP), "", "Back, from"]
        + [indent(_named("dy", run.dy), STEP), "to"]
        + [indent(text, STEP) for text in back]
    )


def _named(name: str, array: np.ndarray) -> str:
    """An array as numbers that are easy to read, its rows under one another."""
    numbers = np.array2string(
        array + 0.0 if array.dtype.kind == "f" else array,  # no -0
        precision=4,
        suppress_small=True,
        separator=" ",
        max_line_width=90,
        prefix=f"{name} = ",
    )
    return f"{name} = {numbers}"


def _check(run: OpRun) -> str:
    """The largest number of each gradient, by the formula and by differences, and how far all of them are apart."""
    lines = [
        "Each gradient, at its largest number, against differences of sum(y * dy) in float64:",
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


def _wrapped(text: str) -> str:
    """Prose at one width; formulas, which are indented, as they are."""
    return "\n\n".join(
        paragraph if "\n " in f"\n{paragraph}" else fill(paragraph, WIDTH)
        for paragraph in text.split("\n\n")
    )

"""`xplm grade`: check your own forward and backward, and name the likely mistake."""

import math
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from xplm.cli.flags import takes_flags
from xplm.cli.output import Output, OutputFlags
from xplm.numerics.grade import DOES_NOT_RUN, OVERFLOWS, Grade
from xplm.numerics.grade import grade as grade_file
from xplm.numerics.grading.diagnosis import Finding
from xplm.numerics.mistakes import CHAINS


@takes_flags
def grade(
    output: OutputFlags,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Python that defines forward and backward.")
    ],
    op: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(CHAINS)}; if not given, the file's OP or its name."),
    ] = None,
) -> None:
    """Check your own forward and backward of an op, and name the likely mistake.

    The file is run: grade only what you trust. It defines

    forward(arrays...), which returns y, or y and what backward needs, and

    backward(dy, arrays...), or backward(dy, what it needs), which returns the gradients.

    Arrays come in the op's order, NumPy in float64; gradients go back in the same order.

    An option such as eps comes by name, to a function that has a parameter of that name.

    Matrices may be stored either way round, and what your forward has no parameter for is not tried.

    Example: xplm grade my_rms_norm.py
    """
    out = Output(output)
    with redirect_stdout(sys.stderr):  # stdout is for the grade, not for what the file prints
        result = grade_file(file, op)
    for line in report(file, result):
        out.line(line)
    out.result(
        {
            "op": result.op,
            "passed": result.passed,
            "forward": result.forward,
            "ops": [
                {"name": name, "max_relative_error": error} for name, error in result.errors.items()
            ],
            "notes": result.notes,
            "findings": [
                {"arguments": list(finding.arguments), "says": finding.says}
                for finding in result.findings
            ],
        }
    )
    if not result.passed:
        raise typer.Exit(1)


def report(file: Path, result: Grade) -> list[str]:
    """The grade as lines of text."""
    n_cases = f"{len(result.cases)} case" + "s" * (len(result.cases) != 1)
    lines = [f"{file.name}: {result.op}, on {n_cases}", ""]
    width = max(len(name) for name in ("backward", *result.errors)) + 2
    is_shown = result.forward_is_right or result.forward in (DOES_NOT_RUN, OVERFLOWS)
    lines.append(f"  {'forward':{width}}{result.forward if is_shown else 'WRONG'}")
    if result.backward:
        lines.append(f"  {'backward':{width}}{result.backward}")
    for name, error in result.errors.items():
        size = f"{error:.1e}" if math.isfinite(error) else "-"
        lines.append(f"  {name:{width}}{_verdict(result, name)}   relative error {size}")
    lines.append("")
    if result.notes:
        lines += [*(f"Not tried: {note}." for note in result.notes), ""]
    if result.passed:
        lines.append("Right: the forward is the op, and every gradient agrees with differences.")
        lines += _about_dtypes(result)
    elif len(result.findings) == 1:
        lines.append(f"Likely mistake: {_sentence(result.findings[0])}")
    else:
        lines.append("Likely mistakes:")
        lines += [f"  {n}. {_sentence(finding)}" for n, finding in enumerate(result.findings, 1)]
        if not is_shown and result.errors:
            lines.append("Mend the forward first: gradients are compared with differences of it.")
    return lines


def _verdict(result: Grade, name: str) -> str:
    if name in result.wrong:
        return "WRONG"
    dtype = result.dtypes.get(name)
    if dtype is None:
        return "right"
    return f"right, in {dtype}" if dtype else "right, to float32's precision"


def _about_dtypes(result: Grade) -> list[str]:
    """The meaning of a dtype narrower than float64 for the check."""
    names = sorted({dtype for dtype in result.dtypes.values() if dtype})
    if names:
        about = f"It computes in {' and '.join(names)}"
    elif result.dtypes:
        about = "It is as exact as float32, by a float32 array inside it or a rounded constant"
    else:
        return []
    return [f"{about}; a smaller mistake would not show. Keep the dtype that comes in, float64."]


def _sentence(finding: Finding) -> str:
    """A finding, and the gradients that it explains if they are several."""
    if len(finding.arguments) < 2:
        return f"{finding.says}."
    *most, last = finding.arguments
    return f"{finding.says}. This explains {', '.join(most)} and {last}."

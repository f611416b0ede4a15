"""`xplm grade`: check somebody's own forward and backward, and name the likely mistake."""

import math
from pathlib import Path
from typing import Annotated

import typer

from xplm.cli.flags import takes_flags
from xplm.cli.output import Output, OutputFlags
from xplm.numerics.grade import Grade
from xplm.numerics.grade import grade as grade_file
from xplm.numerics.gradient_check import OP_LIMIT
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
    """Check your own forward and backward of an op, and hear what is likely wrong.

    The file is run: grade only what you trust. It defines

    forward(arrays...), which returns y, or y and what backward needs, and

    backward(dy, arrays...), or backward(dy, what it needs), which returns the gradients.

    Arrays come in the op's order, NumPy in float64; gradients go back in the same order.

    An option such as eps comes by name, to a function that has a parameter of that name.

    Example: xplm grade my_rms_norm.py
    """
    out = Output(output)
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
    lines = [f"{file.name}: {result.op}, on {len(result.cases)} cases", ""]
    width = max(len(name) for name in ("forward", *result.errors)) + 2
    lines.append(f"  {'forward':{width}}{result.forward}")
    for name, error in result.errors.items():
        verdict = "right" if error <= OP_LIMIT else "WRONG"
        size = f"{error:.1e}" if math.isfinite(error) else "-"
        lines.append(f"  {name:{width}}{verdict}   relative error {size}")
    lines.append("")
    if result.passed:
        lines.append("Right: the forward is the op, and every gradient agrees with differences.")
    elif len(result.findings) == 1:
        lines.append(f"Likely mistake: {_sentence(result.findings[0])}")
    else:
        lines.append("Likely mistakes:")
        lines += [f"  {n}. {_sentence(finding)}" for n, finding in enumerate(result.findings, 1)]
    return lines


def _sentence(finding: Finding) -> str:
    """A finding, and what it explains where that is more than one gradient."""
    if len(finding.arguments) < 2:
        return f"{finding.says}."
    *most, last = finding.arguments
    return f"{finding.says}. This explains {', '.join(most)} and {last}."

"""What the scripts that measure policies share: flags, files, a table, and how they end."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from xplm.checkpoint.files import rename, writing
from xplm.cli.flags import WhereFlags
from xplm.cli.output import Output, OutputFlags, error_line, plain
from xplm.cli.threads import use_threads
from xplm.errors import RequestError, XplmError
from xplm.precision import Policy
from xplm.train.curves import INSTALL, can_draw

BAD_INPUT, INTERRUPTED = 2, 130


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the flags that they share; its help is the script's own docstring."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--backend", help="an array library; if not given, numpy or cupy")
    parser.add_argument("--kernels", default="fused", help="fused, or portable")
    parser.add_argument("--threads", type=int, help="CPU threads; if not given, one a core")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def add_picture(parser: argparse.ArgumentParser) -> None:
    """The flag of scripts that draw."""
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the figures here")


def where(given: argparse.Namespace) -> WhereFlags:
    """Where to compute. With --threads the process may begin anew here."""
    if given.threads is not None and given.threads < 1:
        raise RequestError(f"--threads must be at least 1; got {given.threads}")
    use_threads(given.threads)
    return WhereFlags(given.device, given.backend, given.kernels, given.threads)


def policies(place: WhereFlags, texts: Sequence[str]) -> list[str]:
    """The policies by their own names, each once.

    Raises:
        RequestError: one is not a policy, or needs a dtype that the backend lacks.
    """
    names = list(dict.fromkeys(str(Policy.parse(text)) for text in texts))
    for name in names:
        place.runtime(name)
    return names


def require_picture(path: Path | None) -> None:
    """Refuse a picture that could not be drawn, before anything is measured.

    Raises:
        RequestError: matplotlib is missing.
    """
    if path is not None and not can_draw():
        raise RequestError(f"--png needs matplotlib, which is missing; run: {INSTALL}")


def output(given: argparse.Namespace) -> Output:
    """Where progress is shown."""
    return Output(OutputFlags(quiet=given.quiet))


def write_figures(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Put a JSON file in the place of the one before, as a whole; what is not finite is null.

    Raises:
        CheckpointError: the disk refuses.
    """
    if path is None:
        return
    partial = path.with_name(f"{path.name}.partial")
    with writing(path):
        partial.write_text(json.dumps(plain(figures), indent=2) + "\n", encoding="utf-8")
        rename(partial, path)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A Markdown table in columns; the first is on the left, numbers on the right."""
    cells = [[str(cell) for cell in row] for row in [headings, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headings))]
    for index, row in enumerate(cells):
        padded = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print(f"| {' | '.join(padded)} |")
        if index == 0:
            rules = ["-" * widths[0], *[f"{'-' * (width - 1)}:" for width in widths[1:]]]
            print(f"| {' | '.join(rules)} |", flush=True)


def number(value: float | None, digits: str) -> str:
    """A number for a table; what is not known is a dash."""
    if value is None:
        return "-"
    return format(value, digits) if math.isfinite(value) else str(value)


def run(main: Callable[[], int]) -> NoReturn:
    """Run a script's main function and exit as `xplm` does: 2 for bad input, with one line; 130 interrupted."""
    try:
        with np.errstate(all="ignore"):  # what overflows shows in the figures
            sys.exit(main())
    except XplmError as error:
        print(error_line(str(error)), file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)

"""What the experiments with policies share: flags, files, and a table."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from xplm.checkpoint.files import replacing, writing
from xplm.cli.flags import MODEL_HELP, WhereFlags
from xplm.cli.output import Output, plain
from xplm.errors import RequestError
from xplm.precision import Policy
from xplm.text.tokenizer import Tokenizer
from xplm.text.unknown import count_left_out, count_unknown, describe_unknown
from xplm.train.curves import INSTALL, can_draw

Policies = Annotated[
    list[str] | None, typer.Argument(metavar="[POLICY]...", help="fp32, bf16,softmax=bf16, ...")
]
Model = Annotated[str, typer.Option(help=MODEL_HELP)]
Text = Annotated[str, typer.Option(metavar="FILE", help="A text in UTF-8; - reads stdin.")]
Characters = Annotated[int | None, typer.Option(min=1, help="The first so many of the text.")]
Figures = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write every figure here, as they come.")
]
Picture = Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the figures here.")]


def check_policies(where: WhereFlags, texts: Sequence[str]) -> list[str]:
    """The policies by their own names, each once.

    Raises:
        RequestError: one is not a policy, or needs a dtype that the backend lacks.
    """
    names = list(dict.fromkeys(str(Policy.parse(text)) for text in texts))
    for name in names:
        where.runtime(name)
    return names


def encode_text(tokenizer: Tokenizer, text: str, out: Output) -> list[int]:
    """A text's token ids; says what of it the tokenizer lacks."""
    ids = tokenizer.encode(text)
    n_unknown = count_unknown(tokenizer, np.asarray(ids))
    n_lost = count_left_out(tokenizer, [text])
    for note in describe_unknown(tokenizer, n_unknown, len(ids), n_lost):
        out.note(note)
    return ids


def require_picture(path: Path | None) -> None:
    """Refuse a picture that could not be drawn, before anything is measured.

    Raises:
        RequestError: matplotlib is missing.
    """
    if path is not None and not can_draw():
        raise RequestError(f"--png needs matplotlib, which is missing; run: {INSTALL}")


def write_figures(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Put a JSON file in the place of the one before, as a whole; what is not finite is null.

    Raises:
        CheckpointError: the disk refuses.
    """
    if path is None:
        return
    with writing(path), replacing(path) as file:
        file.write((json.dumps(plain(figures), indent=2) + "\n").encode())


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table in columns; the first is on the left, numbers on the right."""
    cells = [[str(cell) for cell in row] for row in [headings, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headings))]
    rules = ["-" * widths[0], *[f"{'-' * (width - 1)}:" for width in widths[1:]]]
    lines = []
    for row in cells:
        padded = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        padded[0] = row[0].ljust(widths[0])
        lines.append(f"| {' | '.join(padded)} |")
    return "\n".join([lines[0], f"| {' | '.join(rules)} |", *lines[1:]])


def number(value: float | None, digits: str) -> str:
    """A number for a table; what is not known is a dash."""
    if value is None:
        return "-"
    return format(value, digits) if math.isfinite(value) else str(value)

"""An op as a page to read: what its module says, what its code says, and numbers.

Nothing is written twice: formula, derivation and sources are the kernel module's docstring, shapes those of its
functions, and the example is run when it is asked for.
"""

import ast
import inspect
import re
import sys
from pathlib import Path
from typing import NamedTuple

import xplm.typing
from xplm.backend import Backend
from xplm.errors import RequestError, did_you_mean
from xplm.kernels import PORTABLE
from xplm.numerics.check_ops import OpRun, run_case
from xplm.numerics.mistakes import CHAINS
from xplm.numerics.op_cases import OPS, OpCase
from xplm.numerics.op_examples import EXAMPLES

HEADINGS = re.compile(r"(Gradient|Numerics|Sources?)[.:]\s+")


class Source(NamedTuple):
    """The code of an op, without docstring and imports."""

    path: str  # from the directory that holds the package
    first_line: int  # counted from 1
    lines: tuple[str, ...]

    @property
    def last_line(self) -> int:
        """The number of the last of `lines`."""
        return self.first_line + len(self.lines) - 1


class Explanation(NamedTuple):
    """Everything there is to say about an op."""

    op: str
    title: str  # a line
    formula: str
    derivation: str
    numerics: str  # "" where the module says nothing of it
    sources: str  # likewise
    forward: str  # the signature in shapes and dtypes
    backward: str
    legend: str  # the shape letters of those two
    source: Source
    example: OpCase
    run: OpRun  # the example, with its gradient check
    mistakes: tuple[str, ...]  # that are known to be made


def explain(backend: Backend, op: str) -> Explanation:
    """Collect what there is to say about an op.

    Args:
        backend: where to run the example; it must have float64.
        op: its name, one of OPS.

    Raises:
        RequestError: there is no such op.
    """
    if op not in OPS:
        raise RequestError(f'an op is one of {", ".join(OPS)}; got "{op}"{did_you_mean(op, OPS)}')
    forward, backward = PORTABLE[f"{op}_fwd"], PORTABLE[f"{op}_bwd"]
    module = sys.modules[forward.__module__]
    title, sections = _sections(inspect.getdoc(module) or "")
    shapes = [_one_line(inspect.getdoc(kernel) or "") for kernel in (forward, backward)]
    case, dy = EXAMPLES[op]
    return Explanation(
        op=op,
        title=title,
        formula=sections.get("", ""),
        derivation=sections.get("Gradient", ""),
        numerics=sections.get("Numerics", ""),
        sources=sections.get("Source", ""),
        forward=shapes[0],
        backward=shapes[1],
        legend=_legend(" ".join(shapes)),
        source=_source(Path(inspect.getfile(module))),
        example=case,
        run=run_case(backend, PORTABLE, op, case, dy=dy),
        mistakes=tuple(known.says for known in CHAINS[op].mistakes),
    )


def _sections(text: str) -> tuple[str, dict[str, str]]:
    """A module docstring's first line, and its paragraphs by the heading that they stand under."""
    title, _, rest = text.partition("\n")
    sections: dict[str, list[str]] = {}
    heading = ""
    for paragraph in rest.strip("\n").split("\n\n"):
        found = HEADINGS.match(paragraph)
        if found:
            heading = found[1].rstrip("s") if found[1] == "Sources" else found[1]
            paragraph = paragraph[found.end() :]
        sections.setdefault(heading, []).append(paragraph)
    return title, {name: "\n\n".join(parts) for name, parts in sections.items()}


def _one_line(text: str) -> str:
    """The first line of a docstring, which states shapes."""
    return text.partition("\n")[0]


def _legend(shapes: str) -> str:
    """What the letters in some shapes mean, out of xplm.typing."""
    meanings = dict(
        re.findall(r"\b([A-Z]) (\S.*?)(?:\s{2,}|$)", xplm.typing.__doc__ or "", re.MULTILINE)
    )
    used = dict.fromkeys(re.findall(r"\b[A-Z]\b", shapes))
    return ", ".join(f"{letter} {meanings[letter]}" for letter in used if letter in meanings)


def _source(path: Path) -> Source:
    """The lines of a module from behind its imports on."""
    text = path.read_text(encoding="utf-8")
    body = ast.parse(text).body
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    lines = text.splitlines()
    first = imports[-1].end_lineno or 0
    while not lines[first].strip():
        first += 1
    return Source("/".join(path.parts[-3:]), first + 1, tuple(lines[first:]))

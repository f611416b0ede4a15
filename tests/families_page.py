"""docs/families.md, parsed: its tables, and the parts of a cell."""

import itertools
import re
from dataclasses import dataclass

from tests.paths import ROOT

PAGE = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
CODE = re.compile("`([^`]+)`")


@dataclass(frozen=True)
class Table:
    header: list[str]  # without the first column
    rows: dict[str, list[str]]  # by the words of the first column

    def cell(self, row: str, column: str) -> str:
        return self.rows[row][self.header.index(column)]


def table(heading: str) -> Table:
    """The table of a section of the page."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]
    lines = [line.strip() for line in section.splitlines() if line.lstrip().startswith("|")]
    header, _, *body = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    assert len({row[0] for row in body}) == len(body)
    assert {len(row) for row in body} == {len(header)}
    return Table(header[1:], {first: cells for first, *cells in body})


USUAL = {
    column: CODE.findall(cells[0])[0] for column, cells in table("How to read a cell").rows.items()
}
"""Columns whose cells need not name their key, and that key."""


@dataclass(frozen=True)
class Cell:
    """A fact: its words where config.json says nothing, and the keys that change it."""

    words: str
    keys: dict[
        str, str | None
    ]  # each key, and the words once it is flipped or set, if the cell has them


def parse(column: str, text: str) -> Cell:
    words = text.partition("`")[0].strip()
    keys: dict[str, str | None] = {}
    for part in CODE.finditer(text):
        after = re.match(r": ([^`;]+)", text[part.end() :])
        keys[part[1]] = None if after is None else after[1].strip()
    is_fixed = words.endswith(", fixed")
    words = words.removesuffix(", fixed")
    if not keys and not is_fixed and words != "-" and column in USUAL:
        keys = {USUAL[column]: None}
    assert not (keys and is_fixed)
    return Cell(words, keys)


def expand(pattern: str) -> list[str]:
    """a.{b,c}.d -> a.b.d, a.c.d"""
    parts = [part.split(",") for part in re.split("[{}]", pattern)]
    return ["".join(choice) for choice in itertools.product(*parts)]


def stored_names() -> dict[str, set[str]]:
    """Every model type's tensors, without .weight and .bias."""
    names: dict[str, set[str]] = {}
    stored = table("Stored tensors")
    for model_types, cells in stored.rows.items():
        (block,), inside, outside = CODE.findall(cells[0]), " ".join(cells[1:-1]), cells[-1]
        found = {f"{block}.{name}" for code in CODE.findall(inside) for name in expand(code)}
        found |= {name for code in CODE.findall(outside) for name in expand(code)}
        for model_type in model_types.split(", "):
            assert model_type not in names
            names[model_type] = found
    return names

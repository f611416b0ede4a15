"""A pytest plugin that writes what became of every test: `pytest -p judges.outcomes --outcomes FILE`."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from judges.listed import FAILED, NOT_RUN, PASSED, Outcome

CHARS = 200
"""Of a detail."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The flag."""
    parser.addoption("--outcomes", type=Path, required=True, help="the file to write")


def pytest_configure(config: pytest.Config) -> None:
    """Begin to take notes."""
    config.pluginmanager.register(Notes(config.getoption("--outcomes")), "outcomes")


class Notes:
    """The outcomes of a run, by test."""

    def __init__(self, path: Path) -> None:
        """None yet.

        Args:
            path: the file to write.
        """
        self._path = path
        self._found: dict[str, Outcome] = {}

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Tests that are left out."""
        self._found |= {item.nodeid: Outcome(NOT_RUN, "left out") for item in items}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be read is a test that fails."""
        if report.failed:
            self._found[report.nodeid] = Outcome(FAILED, last_line(report.longreprtext))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One of the three parts of a test; the first that does not pass counts."""
        before = self._found.get(report.nodeid, Outcome(PASSED))
        if before.kind != PASSED:
            return
        kind = PASSED if report.passed else NOT_RUN if report.skipped else FAILED
        detail = "" if report.passed else last_line(report.longreprtext)
        self._found[report.nodeid] = Outcome(kind, detail)

    def pytest_sessionfinish(self) -> None:
        """Write them."""
        self._path.write_text(json.dumps(self._found), encoding="utf-8")


def last_line(text: str) -> str:
    """The line that says what is wrong: the last with pytest's mark for it, or the last."""
    lines = [line for line in text.splitlines() if line.strip()] or [""]
    marked = [line for line in lines if line.startswith("E ")]
    return (marked or lines)[-1].removeprefix("E").strip()[:CHARS]

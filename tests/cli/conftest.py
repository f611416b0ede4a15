"""A tiny model on disk, and the command line run in this process."""

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.generate.tiny import tiny_model
from xplm.checkpoint.save import save_directory
from xplm.cli.main import main
from xplm.cli.output import progress_as_before

SEED = 2  # of a model whose greedy replies do not end with their first token


@pytest.fixture(autouse=True)
def nothing_is_compiled_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second process beside those of the tests."""
    monkeypatch.setattr("xplm.cli.ahead._start", lambda arguments: None)


@pytest.fixture(autouse=True)
def progress_stays_as_it_was() -> Iterator[None]:
    """No output of an earlier test gets what a later one reports."""
    with progress_as_before():
        yield


@pytest.fixture(autouse=True)
def a_slow_machine_adds_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for on a pipe is a matter of `test_waiting`."""
    monkeypatch.setattr("xplm.cli.waiting.RARE_SECONDS", float("inf"))


class Terminal(io.TextIOWrapper):
    """A stdin that somebody types at."""

    def isatty(self) -> bool:
        return True


class Outcome(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The last line of stdout."""
        return json.loads(self.stdout.splitlines()[-1])

    @property
    def error(self) -> str:
        """The one line on stderr of a command that refused its input."""
        (line,) = self.stderr.splitlines()
        assert line.startswith("error: ")
        assert (self.code, self.stdout) == (2, "")
        return line


def write_tiny(path: Path, **changes: object) -> Path:
    """A Hugging Face directory with random weights; changes are fields of its config.json."""
    lm = tiny_model(SEED, **changes)
    shapes = {name: array.shape for name, array in lm.params.items()}

    def read(name: str, dtype: Any) -> Any:
        return lm.params[name].astype(dtype)

    save_directory(path, lm.config, shapes, read, "float32", lm.tokenizer.save)
    return path


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model; not to be written to."""
    return write_tiny(tmp_path_factory.mktemp("cli") / "tiny")


@pytest.fixture
def spoilt(tiny_directory: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be damaged."""
    return Path(shutil.copytree(tiny_directory, tmp_path / "spoilt"))


@pytest.fixture
def xplm(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Outcome]:
    """Run `xplm ARGUMENTS...` with what is given as stdin, from a pipe or typed."""
    monkeypatch.setenv("XPLM_HOME", str(tmp_path / "home"))

    def run(*arguments: object, stdin: str | bytes = b"", typed: bool = False) -> Outcome:
        content = io.BytesIO(stdin.encode() if isinstance(stdin, str) else stdin)
        wrapper = Terminal if typed else io.TextIOWrapper
        monkeypatch.setattr(sys, "stdin", wrapper(content, encoding="utf-8"))
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return run

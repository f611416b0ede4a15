"""Suites of tests that run under pytest, in a process of their own."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from judges.listed import Outcome
from xplm.errors import RequestError

SCRIPTS = Path(__file__).resolve().parents[1]
ROOT = SCRIPTS.parent


def folder_of(suite: Path, inside: str) -> Path:
    """The folder of tests in a checkout; a suite may also be that folder.

    Raises:
        RequestError: there is none.
    """
    found = [folder for folder in (suite / inside, suite) if (folder / "utils.py").is_file()]
    if not found:
        raise RequestError(f"--suite must be a checkout with {inside}; {suite} has none")
    return found[0].resolve()


def run_pytest(
    folder: Path, arguments: Sequence[str], variables: Mapping[str, str]
) -> dict[str, Outcome]:
    """Run tests of other people.

    Args:
        folder: where pytest is started.
        arguments: of pytest.
        variables: of the environment, beside those of this process.

    Returns:
        The outcome of each test, by its name.

    Raises:
        RequestError: pytest could not run them.
    """
    with tempfile.TemporaryDirectory() as directory:
        outcomes = Path(directory) / "outcomes.json"
        ours = ["-p", "judges.outcomes", "--outcomes", str(outcomes), "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", *ours, "--rootdir", str(folder), *arguments]
        ended = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": python_path()} | variables,
            stdout=sys.stderr,
            check=False,
        )
        if not outcomes.is_file():
            raise RequestError(f"pytest ended with {ended.returncode} and ran no test in {folder}")
        found = json.loads(outcomes.read_text(encoding="utf-8"))
    return {test: Outcome(*outcome) for test, outcome in found.items()}


def python_path() -> str:
    """Where a process started here finds this checkout."""
    ours = (SCRIPTS, ROOT, ROOT / "backends")
    return os.pathsep.join([*map(str, ours), *filter(None, [os.environ.get("PYTHONPATH")])])


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

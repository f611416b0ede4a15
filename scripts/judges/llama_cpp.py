"""llama.cpp's tests of its server (tools/server/tests), with `llama_server` in the place of its program."""

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from judges.listed import Entry, Outcome
from judges.suites import SCRIPTS, folder_of, free_port, run_pytest

INSIDE = "tools/server/tests"


def run(
    suite: Path, model: str, where: Sequence[str], entries: Sequence[Entry], only: str | None
) -> dict[str, Outcome]:
    """Run the tests.

    Args:
        suite: a checkout of llama.cpp.
        model: what stands in for the models of the tests.
        where: --device and --backend.
        entries: what is known not to pass.
        only: the beginning of the names of those to run; None: all.

    Raises:
        RequestError: the suite is not there.
    """
    folder = folder_of(suite, INSIDE)
    left_out = [entry.beginning for entry in entries if entry.is_left_out]
    deselected = [word for beginning in left_out for word in ("--deselect", beginning)]
    arguments = [only or "unit", *deselected, "-m", "not slow", "-p", "judges.no_downloads"]
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        convert = ["-P", "-m", "xplm", "convert", model, str(work / "model"), "--quiet"]
        subprocess.run([sys.executable, *convert], check=True)
        program = work / "llama-server"
        command = [sys.executable, str(SCRIPTS / "judges" / "llama_server.py"), str(work), *where]
        program.write_text(f'#!/bin/sh\nexec {shlex.join(command)} -- "$@"\n', encoding="utf-8")
        program.chmod(0o755)
        variables = {"LLAMA_SERVER_BIN_PATH": str(program), "PORT": str(free_port())}
        return run_pytest(folder, arguments, variables)

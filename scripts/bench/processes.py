"""Systems under measurement run in processes of their own, under one environment.

A Worker is a process that stays: it answers requests, a line of JSON each. `run_to_end` runs a command from start to
end, and says how long it took and what memory. This process holds no large arrays: what a child reports as its peak
begins with what its parent held.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, NamedTuple, TextIO

MACHINE_VARIABLES = (
    "OPENBLAS_CORETYPE",  # BLAS is to choose its own kernel
    "OPENBLAS_L2_SIZE",
    "PYTHONDONTWRITEBYTECODE",  # modules are to be compiled once, as installing a package does
)
"""What a machine may set that a user's shell does not."""

THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
)
FAILED = 2
"""The exit code where something could not be measured."""

_STARTED: "list[subprocess.Popen[str]]" = []
"""Every process of this run."""

Answer = Callable[[Any], Any]
"""From a request to its answer, both as JSON has them."""


class Finished(NamedTuple):
    """What a command came to."""

    output: str  # its stdout
    seconds: float  # from start to end
    peak_bytes: int  # of memory

    @property
    def result(self) -> Any:
        """Its last line, which is JSON."""
        return json.loads(self.output.splitlines()[-1])


def environment(threads: int) -> dict[str, str]:
    """The variables of this process, with a number of threads, and without those of the machine."""
    kept = {k: v for k, v in os.environ.items() if k not in MACHINE_VARIABLES}
    return kept | dict.fromkeys(THREAD_VARIABLES, str(threads))


def start(command: Sequence[str], threads: int, **variables: str) -> "subprocess.Popen[str]":
    """A process of this Python. Ctrl-C does not reach it; see `kill_all`."""
    process = subprocess.Popen(
        [sys.executable, *command],
        env=environment(threads) | variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _STARTED.append(process)
    return process


def kill_all() -> None:
    """End every process that is still there."""
    for process in _STARTED:
        if process.returncode is None:
            process.kill()


def fail(command: Sequence[str], code: int) -> None:
    """Exit: a command did."""
    print(f"error: exit code {code} of {shlex.join(command)}", file=sys.stderr)
    sys.exit(FAILED)


def run_to_end(command: Sequence[str], threads: int, **variables: str) -> Finished:
    """Run a command of this Python, with nothing on its stdin, and with variables of its environment besides."""
    started = perf_counter()
    process = start(command, threads, **variables)
    assert process.stdin
    assert process.stdout
    process.stdin.close()
    with process.stdout as stdout:
        output = stdout.read()
    _, status, usage = os.wait4(process.pid, 0)  # which says what memory it took
    seconds = perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        fail(command, process.returncode)
    unit = 1 if sys.platform == "darwin" else 1024
    return Finished(output, seconds, usage.ru_maxrss * unit)


class Worker:
    """A process that answers, as the measuring process sees it."""

    def __init__(self, command: Sequence[str], threads: int, **variables: str) -> None:
        """Start it, with variables of its environment besides, and wait until it is ready."""
        self._command = command
        self._process = start(command, threads, **variables)
        self.description: str = self._read()

    def ask(self, request: Any) -> Any:
        """Its answer."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def stop(self) -> None:
        """End it."""
        self._process.communicate()

    def _read(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            fail(self._command, self._process.returncode)
        return json.loads(line)


def own_stdout() -> TextIO:
    """The stdout of this process, for its answers alone: what libraries print there goes to stderr from now on."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def serve(answers: TextIO, description: str, answer: Answer) -> None:
    """Inside a Worker: say what it is, then answer every line of stdin."""
    print(json.dumps(description), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)

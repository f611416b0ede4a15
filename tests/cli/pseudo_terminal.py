"""A program at a pseudo-terminal, driven as somebody who types drives it."""

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.paths import ROOT

SECONDS = 60.0  # to wait for what a program prints; a loaded machine is slow
N_INTERRUPTS = 12  # at most; each has its part of the seconds

PASTE_BEGIN, PASTE_END = "\x1b[200~", "\x1b[201~"  # what a terminal puts around a paste


class PseudoTerminal:
    """A running program and the terminal that it believes it has."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self.shown = ""  # since the last `wait_for`
        self._descriptor = descriptor

    def send(self, text: str) -> None:
        """Press keys; Enter is "\\r"."""
        os.write(self._descriptor, text.encode())

    def interrupt_until(self, text: str) -> None:
        """Press Ctrl-C, again where it came just before the program waits for keys, until a text is printed."""
        for _ in range(N_INTERRUPTS):
            self.send("\x03")
            if self._is_printed(text, SECONDS / N_INTERRUPTS):
                break
        self.wait_for(text)

    def wait_for(self, text: str) -> str:
        """Read until the program has printed a text; return what came before it."""
        assert self._is_printed(text, SECONDS), f"no {text!r} in {self.shown!r}"
        before, _, self.shown = self.shown.partition(text)
        return before

    def _is_printed(self, text: str, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while text not in self.shown:
            left = max(0.0, end - time.monotonic())
            ready, _, _ = select.select([self._descriptor], [], [], left)
            if not ready:
                return False
            try:
                self.shown += os.read(self._descriptor, 4096).decode(errors="replace")
            except OSError:  # Linux, where the program has ended
                return False
        return True


@contextlib.contextmanager
def at_terminal(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[PseudoTerminal]:
    """Run a program at a terminal; skips where the platform has none.

    Args:
        command: of Python: what follows the interpreter's name.
        environment: beside this process's own.
    """
    pty = pytest.importorskip("pty", reason="no pseudo-terminals on this platform")
    import fcntl
    import termios

    controller, terminal = pty.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C reaches it

    paths = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    process = subprocess.Popen(
        [sys.executable, *command],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=os.environ
        | {"PYTHONPATH": paths, "TERM": "xterm", "OPENBLAS_NUM_THREADS": "1"}
        | environment,
        start_new_session=True,
        preexec_fn=take_terminal,
        cwd=Path.cwd(),
    )
    os.close(terminal)
    try:
        yield PseudoTerminal(process, controller)
    finally:
        process.kill()
        process.wait()
        os.close(controller)

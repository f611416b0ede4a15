"""Reports that kernels have to be compiled, and how many so far: that takes seconds, the first time."""

from collections.abc import Callable

from xplm.backend import PROGRESS
from xplm.progress import COMPILING


class _Announcer:
    """Counts the compilations that this process has waited for."""

    def __init__(self) -> None:
        self.count = 0
        self.n_reported = 0  # of them, as done
        self.calls: list[Callable[[], None]] = []

    def note(self) -> None:
        self.count += 1
        seen = {"progress": (COMPILING, self.count, None)}
        if self.count == 1:
            PROGRESS.info("%s; it takes about 15 seconds", COMPILING, extra=seen)
        else:
            PROGRESS.debug("%s: %d so far", COMPILING, self.count, extra=seen)

    def note_done(self) -> None:
        if self.count > self.n_reported:
            self.n_reported = self.count
            seen = {"progress": (COMPILING, self.count, self.count)}
            PROGRESS.debug("%d kernels are compiled", self.count, extra=seen)


_ANNOUNCER = _Announcer()


def note_compiling(*, is_stored: bool) -> None:
    """Report that this process compiles a function. `is_stored`: other processes will find the result on disk."""
    _ANNOUNCER.note()
    while is_stored and _ANNOUNCER.calls:
        _ANNOUNCER.calls.pop()()


def note_waiting() -> None:
    """Report that another process compiles what this one needs."""
    _ANNOUNCER.note()


def note_compiled() -> None:
    """Report that what was to be compiled is there, and the process goes on."""
    _ANNOUNCER.note_done()


def before_compiling(call: Callable[[], None]) -> None:
    """Register a function to be called once, when a kernel has to be compiled that other processes can then load."""
    _ANNOUNCER.calls.append(call)


def compilations() -> int:
    """Functions that this process has compiled, or has waited for while another did."""
    return _ANNOUNCER.count

"""Reports that kernels have to be compiled: that takes seconds, the first time."""

from collections.abc import Callable

from xplm.backend import PROGRESS


class _Announcer:
    """Counts the compilations that this process has waited for."""

    def __init__(self) -> None:
        self.count = 0
        self.calls: list[Callable[[], None]] = []

    def note(self) -> None:
        self.count += 1
        if self.count == 1:
            PROGRESS.info("compiling kernels for this machine, once; it takes about 15 seconds")


_ANNOUNCER = _Announcer()


def note_compiling(*, is_stored: bool) -> None:
    """Report that this process compiles a function. `is_stored`: other processes will find the result on disk."""
    _ANNOUNCER.note()
    while is_stored and _ANNOUNCER.calls:
        _ANNOUNCER.calls.pop()()


def note_waiting() -> None:
    """Report that another process compiles what this one needs."""
    _ANNOUNCER.note()


def before_compiling(call: Callable[[], None]) -> None:
    """Register a function to be called once, when a kernel has to be compiled that other processes can then load."""
    _ANNOUNCER.calls.append(call)


def compilations() -> int:
    """Functions that this process has compiled, or has waited for while another did."""
    return _ANNOUNCER.count

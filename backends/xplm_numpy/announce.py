"""What is said, and who is called, when kernels have to be compiled: that takes seconds, the first time."""

from collections.abc import Callable

from numba.core import event

from xplm.backend import PROGRESS


class _Announcer(event.Listener):
    """Hears numba begin to compile a function of this package."""

    def __init__(self) -> None:
        self.count = 0
        self.calls: list[Callable[[], None]] = []

    def note(self) -> None:
        """A compilation begins, here or in a process that this one waits for."""
        self.count += 1
        if self.count == 1:
            PROGRESS.info("compiling kernels for this machine, once; it takes about 15 seconds")

    def on_start(self, compiling: event.Event) -> None:
        function = compiling.data["dispatcher"].py_func
        if function.__module__.startswith(__package__):
            self.note()
            while self.calls:
                self.calls.pop()()

    def on_end(self, compiling: event.Event) -> None:
        pass


_ANNOUNCER = _Announcer()
event.register("numba:compile", _ANNOUNCER)


def note_waiting() -> None:
    """Another process compiles what this one needs."""
    _ANNOUNCER.note()


def before_compiling(call: Callable[[], None]) -> None:
    """Have something called once, as soon as a kernel has to be compiled."""
    _ANNOUNCER.calls.append(call)


def compilations() -> int:
    """Functions that this process has compiled, or has waited for while another did."""
    return _ANNOUNCER.count

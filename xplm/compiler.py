"""A library that compiles what it computes, at the first call or for each shape."""

from collections.abc import Callable
from dataclasses import dataclass


def none() -> int:
    """Default `Compiler.compilations`: none is reported."""
    return 0


def never(call: Callable[[], None]) -> None:
    """Default `Compiler.before_compiling`: nothing is reported, so the call is not made."""


def any_number(threads: int) -> None:
    """Default `Compiler.check_threads`: refuses no number."""


@dataclass(frozen=True)
class Compiler:
    """What a backend reports of its compiler."""

    compilations: Callable[[], int] = none  # that this process has waited for until now
    before_compiling: Callable[[Callable[[], None]], None] = (
        never  # (call) has it called once, as soon as something has to be compiled
    )
    check_threads: Callable[[int], None] = (
        any_number  # (n) refuses n threads that compiled kernels do not have; called when a runtime takes them
    )


NO_COMPILER = Compiler()
"""Nothing is compiled while the backend computes."""

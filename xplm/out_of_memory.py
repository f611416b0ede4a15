"""Running out of memory: refused before anything is allocated, or reported in one line.

`require_memory` compares a predicted size with what is free. Most systems hand out memory that they do not have and
end a process that uses it, so this is the check that protects the user. `memory_faults` stands around code that
allocates, and turns the array library's own error into an `OutOfMemoryError`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from xplm.backend import Backend, host_memory
from xplm.errors import OutOfMemoryError

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
MAX_QUOTED_CHARS = 200  # of a library's message, which may go on to advise on its settings


def require_memory(
    backend: Backend, n_bytes: int, what: str, advice: str, *, on_host: bool = False
) -> None:
    """Refuse an allocation that is larger than the free memory of a device.

    Where free memory is unknown, total memory is the limit; where that is unknown too, there is none.

    Args:
        backend: whose device is to hold it.
        n_bytes: predicted size, in addition to what the process holds already.
        what: is to be allocated, in the plural.
        advice: what to change, in the imperative.
        on_host: the host holds it, whatever the backend's device is.

    Raises:
        OutOfMemoryError: it does not fit.
    """
    memory, place = backend.memory(), backend.device_name
    if on_host:
        memory, place = host_memory(), "the host"
    if memory.limit is None or n_bytes <= memory.limit:
        return
    kind = "memory" if memory.free is None else "free memory"
    raise OutOfMemoryError(
        f"{what} must fit the {kind} of {place}, {format_bytes(memory.limit)}; "
        f"they take {format_bytes(n_bytes)}; {advice}"
    )


@contextmanager
def memory_faults(backend: Backend, what: str, advice: str) -> Iterator[None]:
    """Turn a failed allocation into an error that says what there is.

    Args:
        backend: whose library allocates.
        what: is being computed or loaded.
        advice: what to change, in the imperative.

    Raises:
        OutOfMemoryError: an allocation failed.
    """
    try:
        yield
    except Exception as error:
        if not backend.is_out_of_memory(error):
            raise
        free = backend.memory().free
        there = "" if free is None else f"; {format_bytes(free)} are free"
        raise OutOfMemoryError(
            f"{what} must fit the memory of {backend.device_name}; got: {quote(error)}{there}; {advice}"
        ) from error


def quote(error: Exception) -> str:
    """The message of a failed allocation, which mostly says how much was asked for."""
    return " ".join(str(error).split())[:MAX_QUOTED_CHARS] or "an allocation that failed"


def format_bytes(n_bytes: int) -> str:
    """A size in the largest unit that it has at least one of: "1.5 GiB". No integer is too large."""
    power = min((max(n_bytes, 1).bit_length() - 1) // 10, len(UNITS) - 1)
    if n_bytes >= 1024 ** len(UNITS):
        return f"more than 1024 {UNITS[-1]}"
    return f"{n_bytes / 1024**power:.1f} {UNITS[power]}" if power else f"{n_bytes} B"

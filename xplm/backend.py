"""What xplm asks of an array library, as one value.

A backend is an array-API namespace, a device, the dtypes it has, the kernels it replaces, and the few primitives that
the standard leaves out. Backends are found through the entry-point group `xplm.backends`, so this file names none of
them, and a package of anybody's can add one:

    [project.entry-points."xplm.backends"]
    mylib = "my_package:make_backend"      # make_backend(device: str) -> Backend

The module of one backend for each kind of device declares that it is the default there: DEFAULT_DEVICE = "cpu" or
"cuda". That of "cpu" computes on NumPy's arrays, and references are computed by it.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import numpy as np

from xplm.blas import NO_CHOICE, Blas
from xplm.compiler import NO_COMPILER, Compiler
from xplm.errors import BackendError, did_you_mean
from xplm.host_memory import DeviceMemory as DeviceMemory  # an adapter needs both names
from xplm.host_memory import host_memory as host_memory
from xplm.threads import check_threads
from xplm.typing import Array, DType, Namespace

ENTRY_POINTS = "xplm.backends"
"""The group of entry points that a package names its backends in."""

PROGRESS = logging.getLogger("xplm.progress")
"""Where a backend says what it makes the user wait for, in lines of level INFO. Nobody sees them who does not ask."""

DEVICE_KINDS = ("cpu", "cuda")

logger = logging.getLogger(__name__)


def assign(array: Any, key: Any, value: Array) -> Array:
    """array[key] = value, for libraries whose arrays can be written to."""
    array[key] = value
    return array


def ignore(n_bytes: int) -> None:
    """Default `before_loading`: does nothing."""


def is_memory_error(error: Exception) -> bool:
    """Default `is_out_of_memory`: NumPy, CuPy and numba raise a MemoryError, as Python does.

    For a thread whose stack finds no room Python raises a RuntimeError.
    """
    return isinstance(error, MemoryError) or str(error) == "can't start new thread"


@dataclass(frozen=True, repr=False)
class Backend:
    """An array library on one device."""

    name: str
    device_name: str  # "cpu", "cuda:0"
    device: Any  # the library's own device object, as array creation takes it
    xp: Namespace
    dtypes: Mapping[str, DType]  # by array-API name, "bfloat16" among them where it is there
    from_host: Callable[[np.ndarray], Array]  # copies onto the device
    to_host: Callable[[Array], np.ndarray]  # copies from the device
    synchronize: Callable[[], None]  # returns once all work given to the device is done
    memory: Callable[[], DeviceMemory]
    assign: Callable[[Array, Any, Array], Array] = (
        assign  # (array, key, value) -> the array written
    )
    is_out_of_memory: Callable[[Exception], bool] = (
        is_memory_error  # whether an exception of the library means that an allocation failed
    )
    before_loading: Callable[[int], None] = ignore  # (bytes) called before weights are loaded
    computing: Callable[[], AbstractContextManager[None]] = (
        nullcontext  # entered around each pass, step or check: holds the threads asked for
    )
    limit_threads: Callable[[int], AbstractContextManager[None]] | None = (
        None  # (n) at most n CPU threads while entered; refuses n at once. None: it has no such number
    )
    threads: int | None = (
        None  # CPU threads asked for; None: as many as the library takes by itself
    )
    kernels: Mapping[str, Callable[..., Any]] = field(
        default_factory=dict
    )  # replace portable ops and fusions by function name; may raise KernelError
    invariant: Mapping[str, Callable[..., Any]] = field(
        default_factory=dict
    )  # the kernels of which no row depends on what is computed beside it; empty: it cannot promise that
    rules: Mapping[str, Callable[..., Any]] = field(
        default_factory=dict
    )  # replace rules of optimizers and the clipping of gradients, likewise
    blas: Blas = NO_CHOICE  # where the user may choose what multiplies matrices
    compiler: Compiler = NO_COMPILER  # of a library that compiles what it computes

    @property
    def library(self) -> str:
        """The name that `load_backend` takes: without the formats that are emulated ("+float8_e4m3fn")."""
        return self.name.partition("+")[0]

    def __repr__(self) -> str:
        """The library and the device."""
        threads = "" if self.threads is None else f", {self.threads} threads"
        return f"Backend({self.name} on {self.device_name}{threads})"


def backend_names() -> list[str]:
    """The backends that can be named, whether or not their libraries are installed."""
    return sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)})


def default_backend(device: str) -> str:
    """The name of the backend that a device means when none is given.

    Args:
        device: "cpu", "cuda" or "cuda:N".

    Raises:
        BackendError: there is no such device, or not one backend alone is its default.
    """
    return _default(_kind(device), entry_points(group=ENTRY_POINTS))


def load_backend(
    name: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    blas: str | None = None,
) -> Backend:
    """Make a backend on a device.

    Args:
        name: an installed backend's name, or None for the device's default.
        device: "cpu", "cuda" or "cuda:N".
        threads: CPU threads that its computations take; None leaves that to the library.
        blas: the library that its fused kernels multiply matrices by; None leaves that to the backend.

    Returns:
        The backend.

    Raises:
        BackendError: no such backend, device or blas, its library or hardware is missing, or it has fewer
            threads. Nothing falls back.
    """
    kind = _kind(device)
    entries = entry_points(group=ENTRY_POINTS)
    name = name or _default(kind, entries)
    found = {entry.name: entry for entry in entries}
    if name not in found:
        raise BackendError(
            f'no backend named "{name}"; installed: {", ".join(sorted(found)) or "none"}'
            f"{did_you_mean(str(name), found)}"
        )
    try:
        make_backend = found[name].load()
    except ImportError as error:
        raise BackendError(
            f'backend "{name}" must be importable; {found[name].value} is not ({error}); '
            "reinstall the package that names it"
        ) from error
    backend = make_backend(device)
    if not isinstance(backend, Backend):
        raise BackendError(
            f'backend "{name}" must return a xplm.backend.Backend; got {type(backend)}'
        )
    held = [backend.computing]
    if threads is not None:
        held.append(_limit(backend, check_threads(threads)))
    if blas is not None:
        held.append(_use(backend, blas))
    if len(held) == 1:
        return backend
    return replace(
        backend,
        computing=partial(_holding, held),
        threads=threads,
        blas=replace(backend.blas, asked=blas),
    )


def _kind(device: str) -> str:
    """The kind of a device: "cpu" or "cuda"."""
    kind, _, number = str(device).partition(":")
    if kind not in DEVICE_KINDS or (number and not number.isdecimal()):
        hint = did_you_mean("cuda" if kind.lower() == "gpu" else kind, DEVICE_KINDS)
        raise BackendError(f'a device is cpu, cuda or cuda:N; got "{device}"{hint}')
    return kind


def _default(kind: str, entries: Collection[EntryPoint]) -> str:
    """The name of the one backend that is the default of a kind of device."""
    names = sorted({entry.name for entry in entries if _default_device(entry) == kind})
    if len(names) != 1:
        known = ", ".join(sorted({entry.name for entry in entries})) or "none"
        raise BackendError(
            f"the default on {kind} must be one backend; got {', '.join(names) or 'none'}; "
            f"give --backend, one of {known}"
        )
    return names[0]


def _default_device(entry: EntryPoint) -> str | None:
    """The kind of device that a backend declares to be the default of; None where it declares none."""
    try:
        module = import_module(entry.module)
    except ImportError as error:
        logger.warning(
            "backend %s is no default: %s cannot be imported (%s)", entry.name, entry.module, error
        )
        return None
    return getattr(module, "DEFAULT_DEVICE", None)


def _limit(backend: Backend, threads: int) -> Callable[[], AbstractContextManager[None]]:
    """What limits the backend to `threads` threads."""
    if backend.limit_threads is None:
        raise BackendError(
            f'backend "{backend.name}" takes no number of threads; got {threads}; leave it out, '
            "or limit the process (on Linux: taskset -c 0-3 ...)"
        )
    backend.limit_threads(threads)  # refuses now what it would refuse later
    return partial(backend.limit_threads, threads)


def _use(backend: Backend, blas: str) -> Callable[[], AbstractContextManager[None]]:
    """What has the backend multiply by one library."""
    use = backend.blas.use
    if use is None:
        raise BackendError(
            f'backend "{backend.name}" multiplies by its own library; got blas "{blas}"; leave it out'
        )
    use(blas)  # refuses now what it would refuse later
    return partial(use, blas)


@contextmanager
def _holding(held: Sequence[Callable[[], AbstractContextManager[None]]]) -> Iterator[None]:
    """All of these, while this is entered."""
    with ExitStack() as stack:
        for hold in held:
            stack.enter_context(hold())
        yield

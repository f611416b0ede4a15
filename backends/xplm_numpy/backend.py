"""NumPy's adapter, with fused kernels where numba can be used."""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np

from xplm.backend import Backend, host_memory
from xplm.blas import Blas, ProductRate
from xplm.compiler import Compiler
from xplm.errors import BackendError
from xplm.precision import HOST_DTYPES
from xplm.threads import limit_blas
from xplm.typing import Array
from xplm_numpy.announce import before_compiling, compilations
from xplm_numpy.border import NumbaError, border
from xplm_numpy.libraries import NUMPY, use_blas
from xplm_numpy.memory import reserve

DEFAULT_DEVICE = "cpu"
"""The kind of device that this backend is the default of."""

Limit = Callable[[int], AbstractContextManager[None]]

logger = logging.getLogger(__name__)


def make_backend(device: str) -> Backend:
    """NumPy on "cpu".

    Raises:
        BackendError: another device is asked for.
    """
    if device != "cpu":
        raise BackendError(f'backend "numpy" computes on the CPU; got --device {device}; use cpu')
    return Backend(
        name="numpy",
        device_name="cpu",
        device="cpu",
        xp=np,
        dtypes=HOST_DTYPES,
        from_host=np.asarray,
        to_host=np.asarray,
        synchronize=lambda: None,
        memory=host_memory,
        before_loading=reserve,
        limit_threads=limit_threads,
        kernels=Table(lambda: load_fused().kernels),
        rules=Table(lambda: load_fused().rules),
        invariant=Table(lambda: load_fused().invariant),
        blas=Blas(use=use_blas, own=NUMPY, multiply_narrow=multiply_narrow, rates=product_rates),
        compiler=Compiler(
            compilations=compilations,
            before_compiling=before_compiling,
            check_threads=check_threads,
        ),
    )


def limit_threads(threads: int) -> AbstractContextManager[None]:
    """At most so many threads while this is entered: of NumPy's BLAS, and of fused kernels once they are imported."""
    launch = sys.modules.get("xplm_numpy.launch")
    limit: Limit = limit_blas if launch is None else launch.limit_threads
    return limit(threads)


def check_threads(threads: int) -> None:
    """Refuse more threads than fused kernels have: BackendError."""
    from xplm_numpy.launch import check_threads

    check_threads(threads)


def multiply_narrow(a: Array, b: Array, dtype: str) -> Array | None:
    """a @ b of float32 matrices whose numbers are those of a narrower dtype; None where that has no product here."""
    if not load_fused().kernels:
        return None
    from xplm_numpy.blas import multiply_narrow

    return multiply_narrow(a, b, dtype)


def product_rates() -> Sequence[ProductRate]:
    """How fast fused kernels multiply; nothing where none run."""
    if not load_fused().kernels:
        return ()
    from xplm_numpy.blas import product_rates

    return product_rates()


class Fused(NamedTuple):
    """What numba computes, by function name: nothing where it cannot be used."""

    kernels: Mapping[str, Callable[..., Any]]
    rules: Mapping[str, Callable[..., Any]]
    invariant: Mapping[str, Callable[..., Any]]


class Table(Mapping[str, Callable[..., Any]]):
    """A table of fused functions, imported when it is first read: portable ones do without numba."""

    def __init__(self, load: Callable[[], Mapping[str, Callable[..., Any]]]) -> None:
        """`load` imports it."""
        self._load = load

    @cached_property
    def _table(self) -> Mapping[str, Callable[..., Any]]:
        return self._load()

    def __getitem__(self, name: str) -> Callable[..., Any]:
        """A function."""
        return self._table[name]

    def __iter__(self) -> Iterator[str]:
        """All names."""
        return iter(self._table)

    def __len__(self) -> int:
        """The number of functions: 0 without numba."""
        return len(self._table)


@cache
def load_fused() -> Fused:
    """The fused kernels and rules; none, and one line of the log, where numba cannot be used."""
    try:
        with border():
            from numba import config

            if getattr(config, "DISABLE_JIT", 0):
                logger.warning("numba is told to compile nothing: the portable kernels run, slower")
                return Fused({}, {}, {})
            from xplm_numpy.kernels import FUSED, FUSED_RULES, INVARIANT
    except NumbaError as error:
        logger.warning("numba cannot be used (%s): the portable kernels run, slower", error)
        return Fused({}, {}, {})
    return Fused(FUSED, FUSED_RULES, INVARIANT)

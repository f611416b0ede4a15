"""Which functions of an array library are called, and on what: a backend that takes note."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from xplm.backend import Backend
from xplm.emulation.array import Emulated
from xplm.emulation.namespace import EmulatedNamespace, Products
from xplm.typing import DType, Namespace

NOTHING = Products(matmul=None, accumulate=None)
"""Nothing is rounded: the namespace is another's, and no more."""


class Call(NamedTuple):
    """A call."""

    function: str  # of the namespace, or an operator: "matmul", "sum", "mul"
    dtypes: tuple[DType, ...]  # of the arrays among its arguments


class WatchedNamespace(EmulatedNamespace):
    """Another namespace, whose every call is written down."""

    def __init__(self, xp: Namespace) -> None:
        """Wrap a namespace."""
        super().__init__(xp, NOTHING)
        self.calls: list[Call] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """A function of the wrapped namespace, which takes note of its calls."""
        function = super().__getattr__(name)

        def noted(*args: Any, **options: Any) -> Any:
            self._note(name, *args)
            return function(*args, **options)

        setattr(self, name, noted)
        return noted

    def apply(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function, or an operator, which takes note of it here."""
        if getattr(function, "__module__", None) == "_operator":
            self._note(function.__name__, *args)
        return super().apply(function, *args, **options)

    def matmul(self, a: Emulated, b: Emulated, /) -> Emulated:
        """The product."""
        self._note("matmul", a, b)
        return super().matmul(a, b)

    def astype(self, x: Emulated, dtype: DType, /, *, copy: bool = True) -> Emulated:
        """x in another dtype."""
        self._note("astype", x)
        return super().astype(x, dtype, copy=copy)

    def _note(self, function: str, *args: Any) -> None:
        self.calls.append(Call(function, tuple(a.dtype for a in self._arrays(args))))

    def _arrays(self, value: Any) -> Iterator[Emulated]:
        if isinstance(value, tuple | list):
            for part in value:
                yield from self._arrays(part)
        elif isinstance(value, self._array):
            yield value


def watch(backend: Backend) -> tuple[Backend, list[Call]]:
    """A backend that computes what another does.

    Args:
        backend: it. Kernels of its own are left out: what they call is not the namespace's.

    Returns:
        The backend, and the list that its calls are added to.
    """
    xp = WatchedNamespace(backend.xp)
    return through(backend, xp), xp.calls


def through(backend: Backend, xp: EmulatedNamespace) -> Backend:
    """A backend whose arrays are those of a namespace around its own."""

    def to_host(array: Emulated) -> np.ndarray:
        return backend.to_host(array.data)

    def assign(array: Emulated, key: Any, value: Emulated) -> Emulated:
        return xp.wrap(backend.assign(array.data, xp.inside(key), value.data))

    return replace(
        backend,
        xp=xp,
        from_host=lambda host: xp.wrap(backend.from_host(host)),
        to_host=to_host,
        assign=assign,
        kernels={},
        rules={},
    )

"""The arrays of an emulated namespace."""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import array_api_compat

from xplm.emulation.names import COMPARISONS, OPERATORS
from xplm.formats import Format
from xplm.typing import Array, Namespace

Emulated: TypeAlias = Any
"""An array of one of `make_array_type`'s types. Its operators are set by name, which no type checker sees."""


def make_array_type(namespace: Namespace) -> type[Any]:
    """The type of the arrays of one EmulatedNamespace.

    Each namespace has a type of its own, because it is by the type that `array_namespace` finds it.
    """

    class EmulatedArray:
        """An array of the wrapped namespace, and the format that its numbers are rounded to."""

        __slots__ = ("data", "format")
        __hash__ = None  # type: ignore[assignment]
        __array_ufunc__ = None  # NumPy's scalars leave operators to the methods here

        def __init__(self, data: Array, format: Format | None) -> None:
            self.data = data  # float32, where there is a format
            self.format = format  # None: data has the dtype that it seems to have

        dtype = property(lambda self: self.format or self.data.dtype)
        shape = property(lambda self: self.data.shape)
        ndim = property(lambda self: self.data.ndim)
        size = property(lambda self: self.data.size)
        device = property(lambda self: array_api_compat.device(self.data))
        T = property(lambda self: type(self)(self.data.T, self.format))
        mT = property(  # noqa: N815 - the standard's name
            lambda self: type(self)(self.data.mT, self.format)
        )

        def __array_namespace__(self, *, api_version: str | None = None) -> Namespace:
            return namespace

        def __array__(self, *args: Any, **options: Any) -> None:
            raise TypeError("an emulated array goes to the host through its backend's to_host")

        def __getitem__(self, key: Any) -> Emulated:
            return type(self)(self.data[namespace.inside(key)], self.format)

        def __matmul__(self, other: Emulated) -> Emulated:
            return namespace.matmul(self, other)

        def __neg__(self) -> Emulated:
            return namespace.apply(operator.neg, self)  # a format without -0 takes note

        def __abs__(self) -> Emulated:
            return type(self)(abs(self.data), self.format)

        def __invert__(self) -> Emulated:
            return type(self)(~self.data, None)

        def __float__(self) -> float:
            return float(self.data)

        def __int__(self) -> int:
            return int(self.data)

        def __bool__(self) -> bool:
            return bool(self.data)

        def __repr__(self) -> str:
            return f"EmulatedArray({self.data!r}, {self.format and self.format.name})"

    for name in (*OPERATORS, *COMPARISONS):
        function = partial(namespace.apply, getattr(operator, f"__{name}__"))
        setattr(EmulatedArray, f"__{name}__", _method(function))
        if name in OPERATORS:
            setattr(EmulatedArray, f"__r{name}__", _reflected(function))
    return EmulatedArray


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, other: function(self, other)


def _reflected(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, other: function(other, self)

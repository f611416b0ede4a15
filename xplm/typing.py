"""Types that every file shares, and the letters that shapes are written in.

B batch            T query positions      S key positions        C model width
H query heads      K key/value heads      G = H / K              D head width
F MLP width        V vocabulary           L layers
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

DType: TypeAlias = Any
"""A dtype object of an array's own library."""

Namespace: TypeAlias = Any
"""An array-API namespace, as `xplm.namespace.array_namespace` returns it."""


class Array(Protocol):
    """An array of any library that the Python array API standard covers: what kernels and layers ask of it.

    The other side of an operator is an array of the same library or a Python number; libraries type it in many ways,
    and so it is Any.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""

    @property
    def ndim(self) -> int:
        """Number of axes."""

    @property
    def dtype(self) -> DType:
        """The dtype object."""

    @property
    def T(self) -> "Array":
        """The transpose of a matrix."""

    def __getitem__(self, key: Any, /) -> "Array": ...

    def __add__(self, other: Any, /) -> "Array": ...
    def __radd__(self, other: Any, /) -> "Array": ...
    def __sub__(self, other: Any, /) -> "Array": ...
    def __rsub__(self, other: Any, /) -> "Array": ...
    def __mul__(self, other: Any, /) -> "Array": ...
    def __rmul__(self, other: Any, /) -> "Array": ...
    def __truediv__(self, other: Any, /) -> "Array": ...
    def __rtruediv__(self, other: Any, /) -> "Array": ...
    def __pow__(self, other: Any, /) -> "Array": ...
    def __matmul__(self, other: Any, /) -> "Array": ...
    def __neg__(self) -> "Array": ...
    def __abs__(self) -> "Array": ...

    def __eq__(self, other: Any, /) -> "Array": ...  # type: ignore[override]
    def __ne__(self, other: Any, /) -> "Array": ...  # type: ignore[override]
    def __lt__(self, other: Any, /) -> "Array": ...
    def __le__(self, other: Any, /) -> "Array": ...
    def __gt__(self, other: Any, /) -> "Array": ...
    def __ge__(self, other: Any, /) -> "Array": ...

    def __and__(self, other: Any, /) -> "Array": ...
    def __or__(self, other: Any, /) -> "Array": ...
    def __invert__(self) -> "Array": ...

    def __bool__(self) -> bool: ...
    def __int__(self) -> int: ...
    def __float__(self) -> float: ...


ArrayT = TypeVar("ArrayT", bound=Array)
"""The type of an array that goes in and comes out again."""

Params: TypeAlias = dict[str, Array]
"""Parameters, or their gradients or moments, under Hugging Face names."""


class LayerCache(NamedTuple):
    """What a cache holds of one layer, and how more is added."""

    keys: Array  # (B, K, capacity, D)
    values: Array  # (B, K, capacity, D)
    write: Callable[[Array, Array], tuple[Array, Array]]
    """Stores k, v (B, K, T, D) behind what is there; gives the keys and the values (B, K, filled + T, D)."""

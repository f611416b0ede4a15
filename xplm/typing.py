"""Types that every file shares, and the letters that shapes are written in.

B batch            T query positions      S key positions        C model width
H query heads      K key/value heads      G = H / K              D head width
F MLP width        V vocabulary           L layers
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

Array: TypeAlias = Any
"""An array of any library that the Python array API standard covers."""

DType: TypeAlias = Any
"""A dtype object of an array's own library."""

Namespace: TypeAlias = Any
"""An array-API namespace, as `xplm.namespace.array_namespace` returns it."""

Params: TypeAlias = dict[str, Array]
"""Parameters, or their gradients or moments, under Hugging Face names."""


class LayerCache(NamedTuple):
    """What a cache holds of one layer, and how more is added."""

    keys: Array  # (B, K, capacity, D)
    values: Array  # (B, K, capacity, D)
    write: Callable[[Array, Array], tuple[Array, Array]]
    """Stores k, v (B, K, T, D) behind what is there; gives the keys and the values (B, K, filled + T, D)."""

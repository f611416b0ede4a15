"""The namespace of an array's library, which every kernel asks for on its first line."""

import array_api_compat

from xplm.typing import Array, Namespace

_OF_TYPE: dict[type, Namespace] = {}


def array_namespace(x: Array) -> Namespace:
    """What `array_api_compat.array_namespace(x)` gives, found once per type of array; of NumPy's, NumPy itself.

    A decode step asks some five hundred times, and each look-up costs more than a small product does. NumPy speaks the
    standard since 2.1, and what is wrapped around it takes longer to import than NumPy.
    """
    kind = type(x)
    if kind not in _OF_TYPE:
        wraps = False if array_api_compat.is_numpy_array(x) else None  # None: where it has to be
        _OF_TYPE[kind] = array_api_compat.array_namespace(x, use_compat=wraps)
    return _OF_TYPE[kind]

"""The namespace of an array's library, which every kernel asks for on its first line."""

import array_api_compat
import numpy as np

from xplm.typing import Array, Namespace

_OF_TYPE: dict[type, Namespace] = {}


def array_namespace(x: Array) -> Namespace:
    """What `array_api_compat.array_namespace(x)` gives, found once per type of array; of NumPy's, NumPy itself.

    A decode step asks some five hundred times, and each look-up costs more than a small product does. NumPy has
    all that xplm asks of the standard since 2.1, and what is wrapped around it takes longer to import than NumPy.
    """
    kind = type(x)
    if kind not in _OF_TYPE:
        is_numpy = array_api_compat.is_numpy_array(x)
        _OF_TYPE[kind] = np if is_numpy else array_api_compat.array_namespace(x)
    return _OF_TYPE[kind]

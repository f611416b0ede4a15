"""The namespace of an array's library, which every kernel asks for on its first line."""

import array_api_compat

from xplm.typing import Array, Namespace

_OF_TYPE: dict[type, Namespace] = {}


def array_namespace(x: Array) -> Namespace:
    """What `array_api_compat.array_namespace(x)` gives, found once per type of array.

    A decode step asks some five hundred times, and each look-up costs more than a small product does.
    """
    kind = type(x)
    if kind not in _OF_TYPE:
        _OF_TYPE[kind] = array_api_compat.array_namespace(x)
    return _OF_TYPE[kind]

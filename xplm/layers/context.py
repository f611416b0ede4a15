"""What all layers of one forward pass share."""

from collections.abc import Mapping
from typing import NamedTuple

from xplm.cache import KVCache
from xplm.specs import RopeSpec
from xplm.typing import Array


class RopeTables(NamedTuple):
    """Cosines and sines of one kind of rotary positions, in the rope island's dtype."""

    cos: Array  # (B or 1, 1, T, dim/2)
    sin: Array  # (B or 1, 1, T, dim/2)


class Context(NamedTuple):
    """What a layer sees of the pass around it."""

    positions: Array | None  # (B or 1, T), integer; None without learned positions
    ropes: Mapping[RopeSpec, RopeTables]
    first: Array | None  # (B, T): first slot that each query may see; None: all from 0
    padding: (
        Array | None
    )  # (B, T, 1) bool: positions before their sequence begins; None: there are none
    start: int  # slot of the first query
    cache: KVCache | None
    layer: int = 0  # number of the block that reads this

"""What all layers of one forward pass share."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from xplm.cache import Cache
from xplm.layers.balance import Balance
from xplm.specs import RopeSpec
from xplm.typing import Array
from xplm.views import Rows


class RopeTables(NamedTuple):
    """Cosines and sines of one kind of rotary positions, in the rope island's dtype."""

    cos: Array  # (B or 1, 1, T, dim/2)
    sin: Array  # (B or 1, 1, T, dim/2)


class AuxiliaryLoss(NamedTuple):
    """The way out of a block for a loss of its own."""

    add: Callable[[Array], None]  # takes the loss, 0-D, weighted as the layer's spec says
    gradient: float  # of the whole loss, scaled, with respect to it: where its backward pass begins
    balance: Balance  # of all routers together, added as one loss once all blocks have run


class Context(NamedTuple):
    """What a layer sees of the pass around it."""

    positions: Array | None  # (B or 1, T), integer; None without learned positions
    ropes: Mapping[RopeSpec, RopeTables]
    cache: Cache | None
    rows: Rows | None  # where they begin in the cache; None without one
    layer: int = 0  # number of the block that reads this
    auxiliary: AuxiliaryLoss | None = None  # None: the pass has no loss

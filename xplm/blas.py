"""The libraries that a backend's kernels multiply matrices by, where the user has a choice."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

from xplm.typing import Array


class ProductRate(NamedTuple):
    """The speed of matrix products of operands in one dtype, by one way."""

    dtype: str
    way: str  # a library's name as `Blas.use` takes it; or "widened": to float32, and then by float32's library
    library: str  # its name and version, for people
    flop_per_s: float
    threads: int  # that this was measured on
    is_chosen: bool
    flushes_subnormals: bool = False  # reads operands below the smallest normal number as zeros


def unmeasured() -> Sequence[ProductRate]:
    """Default `Blas.rates`: none is known."""
    return ()


@dataclass(frozen=True)
class Blas:
    """What multiplies a backend's matrices."""

    use: Callable[[str], AbstractContextManager[None]] | None = (
        None  # (name) has kernels multiply by this library while entered; refuses a name at once. None: no choice
    )
    own: str | None = None  # the name of the array library's products, which portable kernels use
    asked: str | None = None  # the library asked for; None: the backend's own choice
    multiply_narrow: Callable[[Array, Array, str], Array | None] | None = (
        None  # (a, b, dtype) float32 a @ b of matrices whose numbers are that narrower dtype's; None: it cannot
    )
    rates: Callable[[], Sequence[ProductRate]] = unmeasured  # of each way that there is


NO_CHOICE = Blas()
"""The array library multiplies, and nothing else can."""

"""NumPy arrays that count themselves: what a computation holds, and the most that it held at once.

An array counts from the call that makes it until nobody holds it, and so does all that is made of it; a view counts
with its base.
"""

from typing import Any

import numpy as np


class Meter:
    """Bytes of the counted arrays, or of larger ones that they stand for."""

    def __init__(self, rows: int = 1, stand_for: int = 1) -> None:
        """Nothing yet: `rows` of each array stand for so many."""
        self._rows, self._stand_for = rows, stand_for
        self._held = 0
        self.peak = 0
        self.largest = 0  # of one array
        self.is_hidden = False  # whether arrays that come and go leave the peak as it is

    @property
    def held(self) -> int:
        """What there is now."""
        return self._held * self._stand_for // self._rows

    def add(self, n_bytes: int) -> None:
        """Count an array by its own bytes; a negative number takes one away."""
        self._held += n_bytes
        if n_bytes > 0 and not self.is_hidden:
            self.largest = max(self.largest, n_bytes * self._stand_for // self._rows)
            self.note()

    def note(self, more: int = 0) -> None:
        """Compare what is held, and `more`, with the peak."""
        self.peak = max(self.peak, self.held + more)

    def count(self, array: np.ndarray) -> "Counted":
        """The array, counting from here on."""
        found = array.view(Counted)
        found.start(self)
        return found


class Counted(np.ndarray):
    """An array that a meter counts."""

    meter: Meter | None = None
    n_counted: int = 0  # bytes; 0 where its base counts

    def __array_finalize__(self, made_of: Any) -> None:
        """Count what is made of counted arrays."""
        if isinstance(made_of, Counted) and made_of.meter:
            self.start(made_of.meter)

    def start(self, meter: Meter) -> None:
        """Count from here on."""
        self.meter = meter
        if not isinstance(self.base, Counted):
            self.n_counted = self.nbytes
            meter.add(self.n_counted)

    def __array_function__(self, *call: Any) -> Any:
        """NumPy's, of which `where` makes a plain array."""
        result = super().__array_function__(*call)
        return self.meter.count(result) if type(result) is np.ndarray and self.meter else result

    def __del__(self) -> None:
        """Nobody holds it."""
        if self.meter:
            self.meter.add(-self.n_counted)

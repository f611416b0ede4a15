"""Keys and values as attention reads them from a cache, and the rows of a pass over one.

A position is data: each row of a batch begins a pass in a slot of its own, an integer on the device. A query in slot s
sees the keys in slots 0 .. s, or the last of those in a window.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from array_api_compat import device

from xplm.namespace import array_namespace
from xplm.typing import Array

PAGE = 64
"""Slots of a page: the part of a pool of keys and values that is given to one row, or shared by several."""


class Rows(NamedTuple):
    """Where each row of a pass begins."""

    starts: Array  # (B,) integer, slots, on the device
    begins: tuple[int, ...]  # the same on the host, for who owns the cache

    @property
    def latest(self) -> int:
        """The slot that the last row begins in."""
        return max(self.begins)

    @property
    def is_even(self) -> bool:
        """Whether all rows begin in the same slot."""
        return len(set(self.begins)) == 1


class KeyView(NamedTuple):
    """A layer's keys and values of all slots so far, those of this pass included."""

    keys: Array  # (B, K, capacity, D)
    values: Array  # (B, K, capacity, Dv)
    rows: Rows  # where the first query of each is


@dataclass(frozen=True)
class Places:
    """Where in a pool the slots of a pass's rows are."""

    slots: np.ndarray  # (B, S) integer, on the host
    first: Array | None  # (B, T) integer, as `Gathered` has it
    start: int  # likewise
    to_device: Callable[[np.ndarray], Array]

    @cached_property
    def flat(self) -> Array:
        """The places (B S,), on the device."""
        return self.to_device(self.slots.reshape(-1))

    @cached_property
    def run(self) -> slice | None:
        """The places of a single row, where they lie side by side."""
        if len(self.slots) > 1 or np.any(np.diff(self.slots[0]) != 1):
            return None
        return slice(int(self.slots[0, 0]), int(self.slots[0, -1]) + 1)

    def take(self, pool: Array) -> Array:
        """What a pool (K, pages, PAGE, D) holds there  ->  (B, K, S, D); a slice of it where there is one."""
        xp = array_namespace(pool)
        K, D = pool.shape[0], pool.shape[3]
        flat = xp.reshape(pool, (K, -1, D))
        if self.run is not None:
            return flat[None, :, self.run, :]
        taken = xp.reshape(xp.take(flat, self.flat, axis=1), (K, *self.slots.shape, D))
        return xp.permute_dims(taken, (1, 0, 2, 3))


@dataclass(frozen=True)
class PageMap:
    """Which pages of a pool hold the slots of each row of a pass of T tokens."""

    table: np.ndarray  # (B, n) integer, on the host; a page that has been dropped may stand for any
    lows: tuple[int, ...]  # by row, the first slot that is still held: the start of a page
    rows: Rows
    T: int
    to_device: Callable[[np.ndarray], Array]

    @cached_property
    def aligned(self) -> Places:
        """The slots moved so that all rows end in the same one; a row's first slot stands for those before it."""
        lows = np.asarray(self.lows)[:, None]  # (B, 1)
        shift = self.rows.latest - np.asarray(self.rows.begins)[:, None]  # (B, 1)
        low = int(np.min(lows + shift))  # no row holds anything before
        slots = np.arange(low, self.rows.latest + self.T)[None, :] - shift  # (B, S)
        before = np.maximum(shift - low, 0)
        first = self.to_device(np.repeat(before, self.T, axis=1)) if before.any() else None
        return self._places(np.maximum(slots, lows), first, self.rows.latest - low)

    @cached_property
    def in_place(self) -> Places:
        """Each slot where it is; a row's last slot stands for those behind it, which no query of it sees."""
        ends = np.asarray(self.rows.begins)[:, None] + self.T  # (B, 1)
        slots = np.arange(self.rows.latest + self.T)[None, :]
        return self._places(np.minimum(slots, ends - 1), None, self.rows.latest)

    def _places(self, slots: np.ndarray, first: Array | None, start: int) -> Places:
        pages = np.take_along_axis(self.table, slots // PAGE, axis=1)
        return Places(pages * PAGE + slots % PAGE, first, start, self.to_device)


class PagedView(NamedTuple):
    """A layer's keys and values of all slots so far, in the pages of a pool, those of this pass included."""

    keys: Array  # (K, pages, PAGE, D)
    values: Array  # (K, pages, PAGE, Dv)
    map: PageMap

    @property
    def rows(self) -> Rows:
        """Where the first query of each row is."""
        return self.map.rows


class LatentView(NamedTuple):
    """A layer's latents of all slots so far, those of this pass included: keys and values are made of them."""

    latents: Array  # (B, 1, capacity, R + P): the latent, then the rotated part of every head's key
    rows: Rows  # where the first query of each is

    def parts(self, rank: int) -> KeyView:
        """The latents (B, 1, capacity, R) as keys, the rotated parts (B, 1, capacity, P) as values."""
        return KeyView(self.latents[..., :rank], self.latents[..., rank:], self.rows)


class LayerCache(NamedTuple):
    """A layer's part of a cache, for an op that extends it and attends to it."""

    keys: Array  # (B, K, capacity, D), or a pool (K, pages, PAGE, D)
    values: Array  # (B, K, capacity, Dv), or a pool's
    extend: Callable[[Array, Array, Rows], KeyView | PagedView]
    """Stores k, v (B, K, T, D) from each row's start on."""
    map: PageMap | None = None  # of a pool; None for rows with slots of their own


class Gathered(NamedTuple):
    """Keys and values of rows that all end in the same slot, as `attention_fwd` takes them."""

    k: Array  # (B, K, S, D)
    v: Array  # (B, K, S, Dv)
    first: (
        Array | None
    )  # (B, T) integer, the first slot that holds a row's keys; None: slot 0 in all rows
    start: int  # slot of the first query


def gather(view: KeyView | PagedView, T: int) -> Gathered:
    """A view of T queries a row, its rows moved so that all end in the same slot.

    Rows that start in the same slot are slices of the cache, as is a row whose pages lie side by side; others are
    copied.
    """
    if isinstance(view, PagedView):
        places = view.map.aligned
        return Gathered(
            places.take(view.keys), places.take(view.values), places.first, places.start
        )

    xp = array_namespace(view.keys)
    B, S = view.keys.shape[0], view.rows.latest + T
    if view.rows.is_even:
        return Gathered(view.keys[:, :, :S, :], view.values[:, :, :S, :], None, view.rows.latest)

    where = device(view.keys)
    shift = view.rows.latest - view.rows.starts  # (B,)
    slots = xp.arange(S, dtype=shift.dtype, device=where)[None, :] - shift[:, None]  # (B, S)
    slots = xp.where(slots < 0, xp.zeros_like(slots), slots)
    rows = xp.arange(B, dtype=shift.dtype, device=where)[:, None] * S
    index = xp.reshape(rows + slots, (-1,))  # (B S,)

    def moved(array: Array) -> Array:
        _, K, _, D = array.shape
        filled = xp.permute_dims(array[:, :, :S, :], (0, 2, 1, 3))
        flat = xp.reshape(filled, (-1, K * D))  # (B S, K D)
        taken = xp.reshape(xp.take(flat, index, axis=0), (B, S, K, D))
        return xp.permute_dims(taken, (0, 2, 1, 3))

    first = xp.broadcast_to(shift[:, None], (B, T))
    return Gathered(moved(view.keys), moved(view.values), first, view.rows.latest)

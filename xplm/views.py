"""Keys and values as attention reads them from a cache, and the rows of a pass over one.

A position is data: each row of a batch begins a pass in a slot of its own, an integer on the device. A query in slot s
sees the keys in slots 0 .. s, or the last of those in a window.
"""

from collections.abc import Callable
from typing import NamedTuple

from array_api_compat import device

from xplm.namespace import array_namespace
from xplm.typing import Array


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


class LatentView(NamedTuple):
    """A layer's latents of all slots so far, those of this pass included: keys and values are made of them."""

    latents: Array  # (B, 1, capacity, R + P): the latent, then the rotated part of every head's key
    rows: Rows  # where the first query of each is

    def parts(self, rank: int) -> KeyView:
        """The latents (B, 1, capacity, R) as keys, the rotated parts (B, 1, capacity, P) as values."""
        return KeyView(self.latents[..., :rank], self.latents[..., rank:], self.rows)


class LayerCache(NamedTuple):
    """A layer's part of a cache, for an op that extends it and attends to it."""

    keys: Array  # (B, K, capacity, D)
    values: Array  # (B, K, capacity, Dv)
    extend: Callable[[Array, Array, Rows], KeyView]
    """Stores k, v (B, K, T, D) from each row's start on."""


class Gathered(NamedTuple):
    """Keys and values of rows that all end in the same slot, as `attention_fwd` takes them."""

    k: Array  # (B, K, S, D)
    v: Array  # (B, K, S, Dv)
    first: (
        Array | None
    )  # (B, T) integer, the first slot that holds a row's keys; None: slot 0 in all rows
    start: int  # slot of the first query


def gather(view: KeyView, T: int) -> Gathered:
    """A view of T queries a row, its rows moved so that all end in the same slot.

    Rows that start in the same slot are slices of the cache; others are copied.
    """
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

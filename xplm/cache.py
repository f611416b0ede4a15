"""The key/value cache: what attention remembers of earlier positions.

One array of keys (B, K, capacity, D) and one of values (B, K, capacity, Dv) a layer, or one of latents
(B, 1, capacity, R + P) that both are made of, in the policy's cache dtype, allocated once. Each row fills its slots
from 0 on, and has a length of its own; a pass begins in the slot behind it.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from xplm.config import DecoderConfig
from xplm.out_of_memory import memory_faults
from xplm.precision import cast
from xplm.runtime import Runtime
from xplm.typing import Array
from xplm.views import KeyView, LatentView, LayerCache, PagedView, Rows

ADVICE = "ask for fewer new tokens, prompts or beams, or free memory"
"""What to change where a cache, or a reply, does not fit the memory."""


class Cache(Protocol):
    """What a pass reads and extends; `KVCache` is one, `xplm.paged_cache.PagedCache` another."""

    def rows(self) -> Rows:
        """Where the next pass begins."""
        ...

    def of_layer(self, layer: int) -> LayerCache:
        """The keys and values of a layer that has them, for an op that extends them and attends to them."""
        ...

    def extend(self, layer: int, k: Array, v: Array, rows: Rows) -> KeyView | PagedView:
        """Store a layer's k (B, K, T, D) and v (B, K, T, Dv) from each row's start on; a view of all so far."""
        ...

    def extend_latents(self, layer: int, latents: Array, rows: Rows) -> LatentView:
        """The same of a layer that keeps latents (B, 1, T, R + P)."""
        ...

    def advance(self, counts: Sequence[int]) -> None:
        """Count so many more slots of each row as filled. The model's forward pass is the one caller."""
        ...


class KVCache:
    """Keys and values, or latents, of the slots before each row's length, of every layer."""

    def __init__(
        self, rt: Runtime, layers: Sequence[tuple[Array, ...]], lengths: Sequence[int]
    ) -> None:
        """Wrap existing arrays; `allocate` makes new ones."""
        self._rt = rt
        self._layers = list(layers)  # L of keys and values, or of latents alone
        self.lengths = tuple(lengths)  # slots filled, by row

    @classmethod
    def allocate(cls, rt: Runtime, config: DecoderConfig, batch: int, capacity: int) -> "KVCache":
        """An empty cache.

        Args:
            rt: where it lives, and its dtype.
            config: the model's.
            batch: rows.
            capacity: slots a row.
        """
        xp, dtype, device = rt.backend.xp, rt.dtype.cache, rt.backend.device

        def zeros(heads: int, width: int) -> Array:
            return xp.zeros((batch, heads, capacity, width), dtype=dtype, device=device)

        with memory_faults(rt.backend, "the key/value cache", ADVICE):
            layers = [
                tuple(zeros(heads, width) for heads, width in block.mixer.cached)
                for block in config.blocks
            ]
        return cls(rt, layers, (0,) * batch)

    @staticmethod
    def count_bytes(rt: Runtime, config: DecoderConfig, batch: int, capacity: int) -> int:
        """Bytes that `allocate` takes; the arguments are its own."""
        width = sum(heads * n for block in config.blocks for heads, n in block.mixer.cached)
        return batch * capacity * width * rt.host_dtype.cache.itemsize

    @property
    def length(self) -> int:
        """Slots filled, of the longest row."""
        return max(self.lengths)

    @property
    def batch(self) -> int:
        """Rows."""
        return len(self.lengths)

    @property
    def capacity(self) -> int:
        """Slots a row, filled or not."""
        return int(self._layers[0][0].shape[2])

    @property
    def n_bytes(self) -> int:
        """Bytes of all layers together."""
        numbers = sum(math.prod(array.shape) for held in self._layers for array in held)
        return numbers * self._rt.host_dtype.cache.itemsize

    def rows(self) -> Rows:
        """Where the next pass begins."""
        starts = np.asarray(self.lengths, np.int64)
        return Rows(self._rt.backend.from_host(starts), self.lengths)

    def of_layer(self, layer: int) -> LayerCache:
        """The keys and values of a layer that has them, for an op that extends them and attends to them."""
        keys, values = self._layers[layer]
        return LayerCache(keys, values, partial(self.extend, layer))

    def extend(self, layer: int, k: Array, v: Array, rows: Rows) -> KeyView:
        """Store a layer's k (B, K, T, D) and v (B, K, T, Dv) in the slots from each row's start on.

        Returns:
            A view of the layer's keys and values, the new ones included. Lengths stay: the model advances them once
            all layers have been extended.
        """
        keys, values = self._store(layer, (k, v), rows)
        return KeyView(keys, values, rows)

    def extend_latents(self, layer: int, latents: Array, rows: Rows) -> LatentView:
        """The same of a layer that keeps latents (B, 1, T, R + P)."""
        (latents,) = self._store(layer, (latents,), rows)
        return LatentView(latents, rows)

    def advance(self, counts: Sequence[int]) -> None:
        """Count so many more slots of each row as filled. The model's forward pass is the one caller."""
        self.lengths = tuple(n + more for n, more in zip(self.lengths, counts, strict=True))

    def rollback(self, length: int) -> None:
        """Forget every slot from `length` on."""
        assert length >= 0, "a cache holds no slots before the first"
        self.lengths = tuple(min(length, n) for n in self.lengths)

    def fork(self) -> "KVCache":
        """An independent copy."""
        xp = self._rt.backend.xp
        return self._map(lambda array: xp.asarray(array, copy=True), self.lengths)

    def select(self, rows: list[int]) -> "KVCache":
        """A copy that holds the given rows, in that order; a row may be given more than once."""
        backend = self._rt.backend
        index = backend.from_host(np.asarray(rows, np.int64))
        lengths = [self.lengths[row] for row in rows]
        return self._map(lambda array: backend.xp.take(array, index, axis=0), lengths)

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` slots a row, keeping what is filled."""
        if capacity <= self.capacity:
            return
        backend = self._rt.backend
        filled = (slice(None), slice(None), slice(0, self.length), slice(None))

        def larger(array: Array) -> Array:
            B, K, _, D = array.shape
            room = backend.xp.zeros((B, K, capacity, D), dtype=array.dtype, device=backend.device)
            return backend.assign(room, filled, array[filled])

        with memory_faults(backend, "the key/value cache", ADVICE):
            self._layers = [tuple(larger(array) for array in held) for held in self._layers]

    def _store(self, layer: int, news: tuple[Array, ...], rows: Rows) -> tuple[Array, ...]:
        assign, dtype, T = self._rt.backend.assign, self._rt.dtype.cache, news[0].shape[2]
        assert rows.latest + T <= self.capacity, "a cache is as large as its capacity; grow it"
        every = slice(None)
        groups = [(every, rows.latest)]
        if not rows.is_even:
            groups = [(slice(row, row + 1), begin) for row, begin in enumerate(rows.begins)]

        def written(array: Array, new: Array) -> Array:
            new = cast(new, dtype)
            for some, begin in groups:
                slots = (some, every, slice(begin, begin + T), every)
                array = assign(array, slots, new[some, ...])
            return array

        held = self._layers[layer]
        self._layers[layer] = tuple(written(*pair) for pair in zip(held, news, strict=True))
        return self._layers[layer]

    def _map(self, change: Callable[[Array], Array], lengths: Sequence[int]) -> "KVCache":
        with memory_faults(self._rt.backend, "a copy of the key/value cache", ADVICE):
            layers = [tuple(change(array) for array in held) for held in self._layers]
        return KVCache(self._rt, layers, lengths)

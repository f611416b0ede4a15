"""The key/value cache: what attention remembers of earlier positions.

One array of keys (B, K, capacity, D) and one of values (B, K, capacity, Dv) a layer, in the policy's cache dtype,
allocated once. Each row fills its slots from 0 on, and has a length of its own; a pass begins in the slot behind it.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from xplm.config import DecoderConfig
from xplm.out_of_memory import memory_faults
from xplm.precision import cast
from xplm.runtime import Runtime
from xplm.typing import Array
from xplm.views import KeyView, LayerCache, Rows

ADVICE = "ask for fewer new tokens, prompts or beams, or free memory"
"""What to change where a cache, or a reply, does not fit the memory."""


class KVCache:
    """Keys and values of the slots before each row's length, of every layer."""

    def __init__(
        self, rt: Runtime, keys: list[Array], values: list[Array], lengths: Sequence[int]
    ) -> None:
        """Wrap existing arrays; `allocate` makes new ones."""
        self._rt = rt
        self._keys = keys  # L of (B, K, capacity, D)
        self._values = values  # L of (B, K, capacity, Dv)
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

        def zeros(K: int, D: int) -> Array:
            return xp.zeros((batch, K, capacity, D), dtype=dtype, device=device)

        heads = _heads(config)
        with memory_faults(rt.backend, "the key/value cache", ADVICE):
            keys = [zeros(K, D) for K, D, _ in heads]
            values = [zeros(K, Dv) for K, _, Dv in heads]
        return cls(rt, keys, values, (0,) * batch)

    @staticmethod
    def count_bytes(rt: Runtime, config: DecoderConfig, batch: int, capacity: int) -> int:
        """Bytes that `allocate` takes; the arguments are its own."""
        width = sum(K * (D + Dv) for K, D, Dv in _heads(config))
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
        return int(self._keys[0].shape[2])

    @property
    def n_bytes(self) -> int:
        """Bytes of all layers together."""
        numbers = sum(math.prod(array.shape) for array in (*self._keys, *self._values))
        return numbers * self._rt.host_dtype.cache.itemsize

    def rows(self) -> Rows:
        """Where the next pass begins."""
        starts = np.asarray(self.lengths, np.int64)
        return Rows(self._rt.backend.from_host(starts), self.lengths)

    def of_layer(self, layer: int) -> LayerCache:
        """One layer's part, for an op that extends it and attends to it."""
        return LayerCache(self._keys[layer], self._values[layer], partial(self.extend, layer))

    def extend(self, layer: int, k: Array, v: Array, rows: Rows) -> KeyView:
        """Store a layer's k (B, K, T, D) and v (B, K, T, Dv) in the slots from each row's start on.

        Returns:
            A view of the layer's keys and values, the new ones included. Lengths stay: the model advances them once
            all layers have been extended.
        """
        assign, dtype, T = self._rt.backend.assign, self._rt.dtype.cache, k.shape[2]
        assert rows.latest + T <= self.capacity, "a cache is as large as its capacity; grow it"
        every = slice(None)
        groups = [(every, rows.latest)]
        if not rows.is_even:
            groups = [(slice(row, row + 1), begin) for row, begin in enumerate(rows.begins)]
        for arrays, new in ((self._keys, cast(k, dtype)), (self._values, cast(v, dtype))):
            for some, begin in groups:
                slots = (some, every, slice(begin, begin + T), every)
                arrays[layer] = assign(arrays[layer], slots, new[some, ...])
        return KeyView(self._keys[layer], self._values[layer], rows)

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
            keys, values = (
                [larger(array) for array in held] for held in (self._keys, self._values)
            )
        self._keys, self._values = keys, values

    def _map(self, change: Callable[[Array], Array], lengths: Sequence[int]) -> "KVCache":
        with memory_faults(self._rt.backend, "a copy of the key/value cache", ADVICE):
            keys = [change(array) for array in self._keys]
            values = [change(array) for array in self._values]
        return KVCache(self._rt, keys, values, lengths)


def _heads(config: DecoderConfig) -> list[tuple[int, int, int]]:
    """K, D and Dv of each layer."""
    mixers = [block.mixer for block in config.blocks]
    return [(m.num_key_value_heads, m.head_dim, m.value_dim) for m in mixers]

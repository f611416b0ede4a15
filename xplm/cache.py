"""The key/value cache: what attention remembers of earlier positions.

One array of keys and one of values a layer, (B, K, capacity, D), in the policy's cache dtype, allocated once. All rows
fill the same slots; a row whose prompt is shorter starts in a later slot, and its earlier slots hold padding that
attention never looks at.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from xplm.config import DecoderConfig
from xplm.out_of_memory import memory_faults
from xplm.precision import cast
from xplm.runtime import Runtime
from xplm.typing import Array, LayerCache

ADVICE = "ask for fewer new tokens, prompts or beams, or free memory"
"""What to change where a cache, or a reply, does not fit the memory."""


class KVCache:
    """Keys and values of the slots 0 .. length - 1 of every layer."""

    def __init__(self, rt: Runtime, keys: list[Array], values: list[Array], length: int) -> None:
        """Wrap existing arrays; `allocate` makes new ones."""
        self._rt = rt
        self._keys = keys  # L of (B, K, capacity, D)
        self._values = values  # L of (B, K, capacity, D)
        self.length = length  # slots filled

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

        def zeros() -> list[Array]:
            shapes = [(batch, K, capacity, D) for K, D in _heads(config)]
            return [xp.zeros(shape, dtype=dtype, device=device) for shape in shapes]

        with memory_faults(rt.backend, "the key/value cache", ADVICE):
            return cls(rt, zeros(), zeros(), 0)

    @staticmethod
    def count_bytes(rt: Runtime, config: DecoderConfig, batch: int, capacity: int) -> int:
        """Bytes that `allocate` takes; the arguments are its own."""
        width = sum(K * D for K, D in _heads(config))
        return 2 * batch * capacity * width * rt.host_dtype.cache.itemsize

    @property
    def batch(self) -> int:
        """Rows."""
        return int(self._keys[0].shape[0])

    @property
    def capacity(self) -> int:
        """Slots a row, filled or not."""
        return int(self._keys[0].shape[2])

    @property
    def n_bytes(self) -> int:
        """Bytes of all layers together."""
        B, K, S, D = self._keys[0].shape
        return 2 * len(self._keys) * B * K * S * D * self._rt.host_dtype.cache.itemsize

    def of_layer(self, layer: int) -> LayerCache:
        """One layer's part, for an op that attends to it and writes to it."""
        return LayerCache(self._keys[layer], self._values[layer], partial(self.write, layer))

    def write(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Store a layer's k, v (B, K, T, D) in the slots after `length`.

        Returns:
            The layer's keys and values (B, K, length + T, D), the new ones included. `length` stays: the model
            advances it once all layers have written.
        """
        assign = self._rt.backend.assign
        end = self.length + k.shape[2]
        assert end <= self.capacity, "a cache is as large as its capacity; grow it"
        slots = (slice(None), slice(None), slice(self.length, end), slice(None))
        for arrays, new in ((self._keys, k), (self._values, v)):
            arrays[layer] = assign(arrays[layer], slots, cast(new, self._rt.dtype.cache))
        return self._keys[layer][:, :, :end, :], self._values[layer][:, :, :end, :]

    def advance(self, slots: int) -> None:
        """Count `slots` more as filled. The model's forward pass is the one caller."""
        self.length += slots

    def rollback(self, length: int) -> None:
        """Forget every slot from `length` on."""
        assert length >= 0, "a cache holds no slots before the first"
        self.length = min(length, self.length)

    def fork(self) -> "KVCache":
        """An independent copy."""
        return self._map(lambda array: self._rt.backend.xp.asarray(array, copy=True))

    def select(self, rows: list[int]) -> "KVCache":
        """A copy that holds the given rows, in that order; a row may be given more than once."""
        backend = self._rt.backend
        index = backend.from_host(np.asarray(rows, np.int64))
        return self._map(lambda array: backend.xp.take(array, index, axis=0))

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` slots a row, keeping what is filled."""
        if capacity <= self.capacity:
            return
        B, K, _, D = self._keys[0].shape
        backend = self._rt.backend
        filled = (slice(None), slice(None), slice(0, self.length), slice(None))

        def larger(array: Array) -> Array:
            room = backend.xp.zeros((B, K, capacity, D), dtype=array.dtype, device=backend.device)
            return backend.assign(room, filled, array[filled])

        with memory_faults(backend, "the key/value cache", ADVICE):
            keys, values = (
                [larger(array) for array in held] for held in (self._keys, self._values)
            )
        self._keys, self._values = keys, values

    def _map(self, change: Callable[[Array], Array]) -> "KVCache":
        with memory_faults(self._rt.backend, "a copy of the key/value cache", ADVICE):
            keys = [change(array) for array in self._keys]
            values = [change(array) for array in self._values]
        return KVCache(self._rt, keys, values, self.length)


def _heads(config: DecoderConfig) -> list[tuple[int, int]]:
    """K and D of each layer."""
    return [(b.mixer.num_key_value_heads, b.mixer.head_dim) for b in config.blocks]

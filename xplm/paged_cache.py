"""The rows of one pass over a pool of pages: a cache as `xplm.models.decoder.forward` takes one."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from xplm.page_pool import PagePool, PageRow
from xplm.precision import cast
from xplm.runtime import Runtime
from xplm.typing import Array
from xplm.views import PAGE, LatentView, LayerCache, PagedView, PageMap, Rows


class PagedCache:
    """The rows of one pass over a pool, in the order of its batch; each has room for what the pass adds."""

    def __init__(
        self, rt: Runtime, pool: PagePool, rows: Sequence[PageRow], ids: Sequence[Sequence[int]]
    ) -> None:
        """Put rows together.

        Args:
            rt: the pool's.
            pool: holds the rows' pages.
            rows: B of them.
            ids: the tokens of the pass, as many for each row.
        """
        self._rt, self._pool, self._held, self._ids = rt, pool, rows, ids
        begins = tuple(row.length for row in rows)
        self._rows = Rows(rt.backend.from_host(np.asarray(begins, np.int64)), begins)
        self._maps: dict[int, PageMap] = {}

    def rows(self) -> Rows:
        """Where the pass begins."""
        return self._rows

    def of_layer(self, layer: int) -> LayerCache:
        """The pools of a layer, for an op that extends them and attends to them."""
        keys, values = self._pool.arrays(layer)
        return LayerCache(keys, values, partial(self.extend, layer), self._map(layer))

    def extend(self, layer: int, k: Array, v: Array, rows: Rows) -> PagedView:
        """Store a layer's k (B, K, T, D) and v (B, K, T, Dv) behind what each row holds; a view of all."""
        keys, values = self._store(layer, (k, v))
        return PagedView(keys, values, self._map(layer))

    def extend_latents(self, layer: int, latents: Array, rows: Rows) -> LatentView:
        """The same of a layer that keeps latents (B, 1, T, R + P)."""
        (pool,) = self._store(layer, (latents,))
        return LatentView(self._map(layer).in_place.take(pool), rows)

    def advance(self, counts: Sequence[int]) -> None:
        """Count the tokens of the pass as stored. The model's forward pass is the one caller."""
        for row, ids, count in zip(self._held, self._ids, counts, strict=True):
            self._pool.advance(row, ids[:count])

    def _map(self, layer: int) -> PageMap:
        """Which pages a layer's keys are in; one for all layers of a group."""
        g = self._pool.group_of[layer]
        if g not in self._maps:
            tables = [row.tables[g] for row in self._held]
            longest = max(map(len, tables))
            filled = [
                [max(page, 0) for page in table] + [0] * (longest - len(table)) for table in tables
            ]
            lows = tuple(self._pool.low(row, g) for row in self._held)
            to_device = self._rt.backend.from_host
            self._maps[g] = PageMap(
                np.asarray(filled, np.int64), lows, self._rows, len(self._ids[0]), to_device
            )
        return self._maps[g]

    def _store(self, layer: int, news: tuple[Array, ...]) -> tuple[Array, ...]:
        every, assign, dtype = slice(None), self._rt.backend.assign, self._rt.dtype.cache
        tables = [row.tables[self._pool.group_of[layer]] for row in self._held]

        def written(pool: Array, new: Array) -> Array:
            new, T = cast(new, dtype), new.shape[2]
            for b, (table, begin) in enumerate(zip(tables, self._rows.begins, strict=True)):
                done = 0
                while done < T:  # a page at a time
                    page, at = divmod(begin + done, PAGE)
                    n = min(PAGE - at, T - done)
                    where = (every, table[page], slice(at, at + n), every)
                    pool = assign(pool, where, new[b, :, done : done + n, :])
                    done += n
            return pool

        stored = tuple(written(*pair) for pair in zip(self._pool.arrays(layer), news, strict=True))
        self._pool.store(layer, stored)
        return stored

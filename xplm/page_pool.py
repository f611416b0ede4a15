"""A pool of pages: rows take and share them, write into their own, and give back what a window has passed.

One array of pages (heads, pages, PAGE, width) for keys and one for values, or one of latents, a layer, in the policy's
cache dtype. Layers with the same window share one book of pages (`xplm.pages`), so a row has one table a book. A row
takes pages as it grows, or at once for all that it will hold: then they lie side by side, and are read without a copy.

Several threads may use the rows of one pool: whoever changes it, or computes over it, holds its lock meanwhile. A row
that is dropped without being released gives its pages back the next time that pages are asked for.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from threading import RLock

from xplm.cache import ADVICE
from xplm.config import DecoderConfig
from xplm.errors import OutOfMemoryError
from xplm.out_of_memory import memory_faults
from xplm.pages import PageBook, page_key
from xplm.runtime import Runtime
from xplm.typing import Array
from xplm.views import PAGE

DROPPED = -1
"""In a row's table, of a page that a window has passed."""


@dataclass
class _Group:
    """Layers with the same window, and the book of their pages."""

    layers: tuple[int, ...]
    window: int | None  # tokens; None: every key is seen for ever
    page_bytes: int  # of one page, in all layers
    book: PageBook


class PageRow:
    """What one row holds: the tokens whose keys and values are stored, and the pages that these are in."""

    def __init__(self, pool: "PagePool", parent: bytes) -> None:
        """Nothing yet; `PagePool.acquire` makes one."""
        self.ids: list[int] = []
        """The tokens, in order."""
        self.tables: list[list[int]] = [[] for _ in pool.groups]  # a page, or DROPPED, by group
        self.keys = [parent]  # of the full pages so far; the first is what the row begins with
        self.is_kept = True  # whether full pages are kept for rows to come
        self.owns_last = False  # whether the page that is written to next is known to be its own
        self._pool = pool
        weakref.finalize(self, pool.dropped.append, self.tables).atexit = False

    @property
    def length(self) -> int:
        """Slots filled."""
        return len(self.ids)

    def reserve(self, count: int) -> bool:
        """Take the pages for `count` more tokens; False, and nothing is taken, if the pool has no room."""
        return self._pool.reserve(self, count)

    def has_room(self, n_tokens: int) -> bool:
        """Whether it can hold so many tokens in all without an allocation."""
        return self._pool.has_room(self, n_tokens)

    def rollback(self, length: int) -> bool:
        """Forget the tokens from `length` on; False, and nothing is done, where a window has passed the rest."""
        return self._pool.rollback(self, length)

    def fork(self) -> "PageRow":
        """Another row that holds the same, in the same pages for as long as neither writes to one."""
        return self._pool.fork(self)

    def release(self) -> None:
        """Give back all pages. The row is empty then."""
        self._pool.release(self)


class PagePool:
    """The pages of one model, and the rows that hold them."""

    def __init__(self, rt: Runtime, config: DecoderConfig, limit_bytes: int | None = None) -> None:
        """No pages yet; they are allocated as rows ask for them.

        Args:
            rt: where they live, and their dtype.
            config: the model's.
            limit_bytes: of all pages together; None for no limit but the device's memory.
        """
        self._rt, self._config, self.limit_bytes = rt, config, limit_bytes
        self.lock = RLock()
        """Held by who changes the pool, and for a pass over it."""
        self.dropped: list[list[list[int]]] = []
        """Tables of rows that were dropped; a finalizer may run at any time, so it does no more than add to these."""
        itemsize = rt.host_dtype.cache.itemsize
        windows = [getattr(block.mixer, "window", None) for block in config.blocks]
        self.groups: list[_Group] = []
        for window in dict.fromkeys(windows):
            layers = tuple(layer for layer, own in enumerate(windows) if own == window)
            numbers = sum(h * n for i in layers for h, n in config.blocks[i].mixer.cached)
            self.groups.append(_Group(layers, window, PAGE * numbers * itemsize, PageBook()))
        self.group_of = {i: g for g, group in enumerate(self.groups) for i in group.layers}
        self._arrays = [self._allocate(layer, 0) for layer in range(len(config.blocks))]

    @property
    def most_pages(self) -> int | None:
        """Pages of each group, at most: the limit is shared out so that a row finds as many in each."""
        return None if self.limit_bytes is None else self.limit_bytes // self.count_bytes(1)

    @property
    def n_bytes(self) -> int:
        """Bytes of all pages."""
        return sum(group.book.n_pages * group.page_bytes for group in self.groups)

    @property
    def held_bytes(self) -> int:
        """Bytes of the pages that rows hold."""
        books = [(group.book, group.page_bytes) for group in self.groups]
        return sum((book.n_pages - book.n_available) * size for book, size in books)

    def count_bytes(self, n_tokens: int) -> int:
        """Bytes of the pages that a row of so many tokens holds at most."""
        n_pages = -(-n_tokens // PAGE)
        return sum(n_pages * group.page_bytes for group in self.groups)

    def acquire(self, ids: Sequence[int], parent: bytes) -> PageRow:
        """A row that holds as long a beginning of `ids` as pages are kept of, short of all.

        Args:
            ids: what the row is about to hold.
            parent: what keys and values depend on beside the tokens before them, and whose they are
                (`xplm.pages.first_key`).
        """
        row = PageRow(self, parent)
        n_full = (len(ids) - 1) // PAGE
        keys = [parent]
        for page in range(n_full):
            keys.append(page_key(keys[-1], ids[page * PAGE : (page + 1) * PAGE]))
        with self.lock:
            self._collect_dropped()
            for n in range(n_full, 0, -1):
                tables = [self._find(group, keys, n) for group in self.groups]
                found = [table for table in tables if table is not None]
                if len(found) == len(tables):
                    self._share(found)
                    row.tables[:], row.keys, row.ids = found, keys[: n + 1], list(ids[: n * PAGE])
                    break
        return row

    def reserve(self, row: PageRow, count: int) -> bool:
        """As `PageRow.reserve`."""
        n_pages = -(-(row.length + count) // PAGE)
        if row.owns_last and all(len(table) >= n_pages for table in row.tables):
            return True
        with self.lock:
            self._collect_dropped()
            copied = [self._shared_page(row, g) for g in range(len(self.groups))]
            needs = [
                max(0, n_pages - len(table)) + (page is not None)
                for table, page in zip(row.tables, copied, strict=True)
            ]
            if not self._make_room(needs):
                return False
            for group, table, page, n in zip(self.groups, row.tables, copied, needs, strict=True):
                own = len(table)
                table += group.book.take(n)
                if page is not None:
                    self._copy_page(group, page, table[own])
                    table[row.length // PAGE] = table.pop(own)
                    group.book.release(page)
            row.owns_last = True
        return True

    def has_room(self, row: PageRow, n_tokens: int) -> bool:
        """As `PageRow.has_room`."""
        n_pages = -(-n_tokens // PAGE)
        return all(
            n_pages - len(table) <= group.book.n_available
            for group, table in zip(self.groups, row.tables, strict=True)
        )

    def has_pages(self, n_tokens: int) -> bool:
        """Whether a row of so many tokens needs no allocation; within a limit, once others have given theirs back."""
        n_pages, books = -(-n_tokens // PAGE), [group.book for group in self.groups]
        if self.limit_bytes is None:
            return all(n_pages <= book.n_available for book in books)
        return all(n_pages <= book.n_pages for book in books)

    def rollback(self, row: PageRow, length: int) -> bool:
        """As `PageRow.rollback`."""
        if length >= row.length:
            return True
        if any(
            _first_seen(group, length) < self.low(row, g) for g, group in enumerate(self.groups)
        ):
            return False
        n_pages = -(-length // PAGE)
        with self.lock:
            for group, table in zip(self.groups, row.tables, strict=True):
                _give_back(group.book, table[n_pages:])
                del table[n_pages:]
        del row.ids[length:]
        del row.keys[1 + length // PAGE :]
        row.owns_last = False
        return True

    def fork(self, row: PageRow) -> PageRow:
        """As `PageRow.fork`."""
        row.owns_last = False
        other = PageRow(self, row.keys[0])
        n_pages = -(-row.length // PAGE)
        other.ids, other.keys, other.is_kept = list(row.ids), list(row.keys), row.is_kept
        with self.lock:
            self._share([table[:n_pages] for table in row.tables])
            other.tables[:] = [table[:n_pages] for table in row.tables]
        return other

    def release(self, row: PageRow) -> None:
        """As `PageRow.release`."""
        with self.lock:
            self._give_back_all(row.tables)
        row.ids.clear()
        del row.keys[1:]
        row.owns_last = False

    def advance(self, row: PageRow, ids: Sequence[int]) -> None:
        """Count tokens as stored; keep pages that are full, and give back those that a window has passed."""
        n_before = row.length // PAGE
        row.ids += ids
        with self.lock:
            for page in range(n_before, row.length // PAGE):
                row.keys.append(page_key(row.keys[-1], row.ids[page * PAGE : (page + 1) * PAGE]))
                for group, table in zip(self.groups, row.tables, strict=True):
                    if row.is_kept and table[page] != DROPPED:
                        group.book.keep(table[page], row.keys[-1])
            for group, table in zip(self.groups, row.tables, strict=True):
                passed = _first_seen(group, row.length) // PAGE
                for page in range(passed - 1, -1, -1):
                    if table[page] == DROPPED:
                        break
                    group.book.release(table[page])
                    table[page] = DROPPED

    def low(self, row: PageRow, group: int) -> int:
        """The first slot that a row still holds in a group's layers."""
        table = row.tables[group]
        return PAGE * next((n for n, page in enumerate(table) if page != DROPPED), len(table))

    def arrays(self, layer: int) -> tuple[Array, ...]:
        """The pools of a layer: keys and values (heads, pages, PAGE, width), or latents."""
        return self._arrays[layer]

    def store(self, layer: int, arrays: tuple[Array, ...]) -> None:
        """Put pools that have been written to in the place of a layer's own."""
        self._arrays[layer] = arrays

    def _share(self, tables: Sequence[Sequence[int]]) -> None:
        """Count one more holder of every page."""
        for group, table in zip(self.groups, tables, strict=True):
            for page in table:
                if page != DROPPED:
                    group.book.share(page)

    def _give_back_all(self, tables: Sequence[list[int]]) -> None:
        for group, table in zip(self.groups, tables, strict=True):
            _give_back(group.book, table[::-1])  # the end of a text is less likely to be asked for
            table.clear()

    def _collect_dropped(self) -> None:
        while self.dropped:
            self._give_back_all(self.dropped.pop())

    def _find(self, group: _Group, keys: Sequence[bytes], n: int) -> list[int] | None:
        """The pages of a row of n full ones, as far as a query behind them sees; None if one is not kept."""
        table = [DROPPED] * n
        for page in range(_first_seen(group, n * PAGE) // PAGE, n):
            found = group.book.find(keys[page + 1])
            if found is None:
                return None
            table[page] = found
        return table

    def _shared_page(self, row: PageRow, g: int) -> int | None:
        """The page that a row is about to write to, where it must have a copy of its own first."""
        at, table, book = row.length // PAGE, row.tables[g], self.groups[g].book
        if row.length % PAGE == 0 and at >= len(table):
            return None
        if at >= len(table) or table[at] == DROPPED:
            return None
        if not book.is_shared(table[at]):
            book.forget(table[at])
            return None
        return table[at]

    def _make_room(self, needs: Sequence[int]) -> bool:
        """Whether each group has so many pages at hand, after allocating what the limit allows.

        Within a limit pages are kept for as long as there is room for more; without one they are used again first, and
        so they are where no more can be allocated.
        """
        growths = []
        for group, need in zip(self.groups, needs, strict=True):
            book = group.book
            fewest = max(0, need - book.n_available)
            wanted = fewest if self.most_pages is None else max(0, need - book.n_free)
            room = wanted if self.most_pages is None else self.most_pages - book.n_pages
            if fewest > room:
                return False
            growths.append((min(wanted, room), fewest))
        for group, (missing, fewest) in zip(self.groups, growths, strict=True):
            try:
                if missing:
                    self._grow(group, missing)
            except OutOfMemoryError:
                if fewest > 0:
                    raise
        return True

    def _grow(self, group: _Group, missing: int) -> None:
        """Add pages: as many as there are, within the limit, and no fewer than are missing."""
        n_before, count = group.book.n_pages, max(missing, group.book.n_pages)
        if self.most_pages is not None:
            count = min(count, self.most_pages - n_before)
        backend = self._rt.backend
        filled = (slice(None), slice(0, n_before), slice(None), slice(None))
        with memory_faults(backend, "the key/value cache", ADVICE):
            for layer in group.layers:
                larger = self._allocate(layer, n_before + count)
                if n_before:
                    pairs = zip(larger, self._arrays[layer], strict=True)
                    larger = tuple(backend.assign(new, filled, old[filled]) for new, old in pairs)
                self._arrays[layer] = larger
        group.book.grow(n_before + count)

    def _allocate(self, layer: int, n_pages: int) -> tuple[Array, ...]:
        xp, dtype, device = self._rt.backend.xp, self._rt.dtype.cache, self._rt.backend.device
        cached = self._config.blocks[layer].mixer.cached
        return tuple(
            xp.zeros((heads, n_pages, PAGE, width), dtype=dtype, device=device)
            for heads, width in cached
        )

    def _copy_page(self, group: _Group, page: int, to: int) -> None:
        every, backend = slice(None), self._rt.backend
        where = (every, slice(to, to + 1), every, every)
        with memory_faults(backend, "a copy of a page of keys and values", ADVICE):
            for layer in group.layers:
                self._arrays[layer] = tuple(
                    backend.assign(array, where, array[:, page : page + 1, :, :])
                    for array in self._arrays[layer]
                )


def _first_seen(group: _Group, length: int) -> int:
    """The first slot that a query in slot `length`, or a later one, sees."""
    return 0 if group.window is None else max(0, length - group.window + 1)


def _give_back(book: PageBook, pages: Sequence[int]) -> None:
    for page in pages:
        if page != DROPPED:
            book.release(page)

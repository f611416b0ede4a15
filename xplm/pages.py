"""Pages: equal parts of a pool of keys and values, and who holds which. Bookkeeping on the host, without arrays.

A row of a batch writes its keys into pages of its own; rows that begin with the same tokens share the full pages of
that beginning. A page that nobody holds any more is kept, under a key that names the tokens up to its end, for as long
as no one else needs the room: a later row that begins with the same tokens finds it. The oldest go first.
"""

import bisect
import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

DIGEST_BYTES = 16


class PageBook:
    """Who holds which of the pages 0 .. n_pages - 1."""

    def __init__(self, n_pages: int = 0) -> None:
        """All pages are free."""
        self._free: list[int] = list(range(n_pages))  # ascending
        self._holders = [0] * n_pages
        self._key_of: dict[int, bytes] = {}
        self._page_of: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # kept, and held by none; oldest first

    @property
    def n_pages(self) -> int:
        """Pages in all."""
        return len(self._holders)

    @property
    def n_free(self) -> int:
        """Pages that hold nothing."""
        return len(self._free)

    @property
    def n_available(self) -> int:
        """Pages that `take` can hand out: free ones, and those kept for nobody yet."""
        return len(self._free) + len(self._idle)

    @property
    def n_idle(self) -> int:
        """Pages kept for a row to come."""
        return len(self._idle)

    def grow(self, n_pages: int) -> None:
        """Add free pages, up to so many in all."""
        self._free += range(self.n_pages, n_pages)
        self._holders += [0] * (n_pages - self.n_pages)

    def take(self, count: int) -> list[int]:
        """Pages for one holder: side by side where free ones lie so, or else free ones and then the oldest kept."""
        assert count <= self.n_available, "ask n_available first"
        begin = _find_run(self._free, count)
        pages = self._free[begin : begin + count]
        del self._free[begin : begin + count]
        while len(pages) < count:
            page, _ = self._idle.popitem(last=False)
            self.forget(page)
            pages.append(page)
        for page in pages:
            self._holders[page] = 1
        return pages

    def share(self, page: int) -> None:
        """Count one more holder."""
        self._idle.pop(page, None)
        self._holders[page] += 1

    def release(self, page: int) -> None:
        """Count one holder less. A page without any is free, or kept for later if it has a key."""
        self._holders[page] -= 1
        assert self._holders[page] >= 0, "a page is released once by each holder"
        if self._holders[page] > 0:
            return
        if page in self._key_of:
            self._idle[page] = None
        else:
            self._put_back(page)

    def is_shared(self, page: int) -> bool:
        """Whether more than one holds it, so that none may write to it."""
        return self._holders[page] > 1

    def keep(self, page: int, key: bytes) -> None:
        """Name a held page by what it holds; the first page of a key stays the one that is found."""
        if key not in self._page_of and page not in self._key_of:
            self._key_of[page] = key
            self._page_of[key] = page

    def find(self, key: bytes) -> int | None:
        """The page of a key."""
        return self._page_of.get(key)

    def forget(self, page: int) -> None:
        """Take a page's key away, before something else is written to it."""
        key = self._key_of.pop(page, None)
        if key is not None:
            del self._page_of[key]

    def _put_back(self, page: int) -> None:
        bisect.insort(self._free, page)


def page_key(parent: bytes, ids: Sequence[int]) -> bytes:
    """The key of a page that holds `ids`, after the pages whose last has the key `parent`."""
    stored = np.asarray(ids, np.int64).tobytes()
    return hashlib.blake2b(parent + stored, digest_size=DIGEST_BYTES).digest()


def first_key(*parts: str) -> bytes:
    """The parent of first pages: what else keys and values depend on, and who may share them."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        stored = part.encode()
        digest.update(len(stored).to_bytes(8, "little") + stored)
    return digest.digest()


def _find_run(pages: Sequence[int], count: int) -> int:
    """Where the first run of `count` neighbours begins in ascending pages; 0 if there is none."""
    begin = 0
    for i, page in enumerate(pages):
        if i > 0 and page != pages[i - 1] + 1:
            begin = i
        if i - begin + 1 == count:
            return begin
    return 0

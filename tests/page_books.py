"""Whether a pool's books of pages agree with the rows that hold them."""

from collections import Counter
from collections.abc import Sequence

from xplm.page_pool import DROPPED, PagePool, PageRow


def check_books(pool: PagePool, rows: Sequence[PageRow]) -> None:
    """Each page is free, kept or held, by as many rows as have it in their tables; `rows` are all of the pool's."""
    pool.acquire([], b"")  # takes back the pages of rows that were dropped
    for g, group in enumerate(pool.groups):
        book = group.book
        held = Counter(page for row in rows for page in row.tables[g] if page != DROPPED)
        free, idle, keys = list(book._free), list(book._idle), book._key_of
        assert book._holders == [held[page] for page in range(book.n_pages)]
        assert free == sorted(free)
        assert sorted([*free, *idle, *held]) == list(range(book.n_pages))
        assert {keys[page]: page for page in keys} == book._page_of
        assert set(idle) <= set(keys) <= set(idle) | set(held)
        for layer in group.layers:
            assert {array.shape[1] for array in pool.arrays(layer)} == {book.n_pages}
        for row in rows:
            assert len(row.tables[g]) * 64 >= row.length
            assert max(Counter(p for p in row.tables[g] if p != DROPPED).values(), default=1) == 1
    if pool.most_pages is not None:
        assert all(group.book.n_pages <= pool.most_pages for group in pool.groups)

"""The book of pages: each is free, held or kept, and only one of these."""

import random

import pytest

from xplm.pages import PageBook, first_key, page_key


def test_pages_side_by_side_are_taken_first():
    book = PageBook(8)
    assert book.take(2) == [0, 1]
    assert book.take(3) == [2, 3, 4]
    for page in (1, 3):
        book.release(page)
    assert book.take(2) == [5, 6]
    assert book.take(2) == [1, 3]  # no neighbours are left
    assert book.n_available == 1


def test_a_page_with_a_key_is_kept_until_its_room_is_needed():
    book = PageBook(3)
    for page, name in zip(book.take(3), "abc", strict=True):
        book.keep(page, name.encode())
    for page in (1, 0, 2):
        book.release(page)
    assert (book.n_free, book.n_idle, book.n_available) == (0, 3, 3)
    assert book.find(b"b") == 1

    book.share(1)  # found again: no longer the oldest
    assert book.take(1) == [0]
    assert book.find(b"a") is None
    assert book.take(1) == [2]
    assert book.n_available == 0
    book.release(1)
    assert book.find(b"b") == 1


def test_the_first_page_of_a_key_is_the_one_that_is_found():
    book = PageBook(2)
    book.take(2)
    book.keep(0, b"a")
    book.keep(1, b"a")
    assert book.find(b"a") == 0
    book.release(1)
    assert (book.n_free, book.n_idle) == (1, 0)  # of the second nothing is kept
    book.forget(0)
    assert book.find(b"a") is None
    book.release(0)
    assert book.n_free == 2


def test_every_page_is_free_held_or_kept():
    rng, book, held = random.Random(5), PageBook(4), []
    for step in range(2000):
        choice = rng.random()
        if choice < 0.4 and book.n_available:
            held += book.take(rng.randint(1, min(3, book.n_available)))
        elif choice < 0.55 and held:
            page = rng.choice(held)
            book.share(page)
            held.append(page)
        elif choice < 0.7 and held:
            book.keep(rng.choice(held), rng.choice("abcdefgh").encode())
        elif choice < 0.95 and held:
            page = held.pop(rng.randrange(len(held)))
            assert book.is_shared(page) == (page in held)
            book.release(page)
        elif step % 50 == 0:
            book.grow(book.n_pages + 1)
        assert book.n_available == book.n_pages - len(set(held))
        assert book.n_available == book.n_free + book.n_idle


@pytest.mark.parametrize("other", [[1, 2, 4], [1, 2], [12, 3]])
def test_keys_tell_tokens_and_their_beginnings_apart(other):
    parent = first_key("owner", "")
    assert page_key(parent, [1, 2, 3]) == page_key(parent, (1, 2, 3))
    assert page_key(parent, [1, 2, 3]) != page_key(parent, other)
    assert page_key(parent, [1, 2, 3]) != page_key(page_key(parent, [1, 2, 3]), [1, 2, 3])
    assert first_key("ow", "ner") != parent != first_key("owner")

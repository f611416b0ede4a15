"""A cache in pages gives what a dense one gives, whatever rows share, drop, take back or copy."""

import random

import numpy as np
import pytest

from tests.page_books import check_books
from tests.tiny import VARIANTS, draw_ids, make_config, make_params
from xplm.cache import KVCache
from xplm.errors import OutOfMemoryError
from xplm.generate.engine import Engine
from xplm.page_pool import DROPPED, PagePool
from xplm.pages import first_key
from xplm.runtime import make_runtime
from xplm.views import PAGE

PARENT = first_key("somebody")
LATENT = {"latent": {"model_type": "deepseek_v2"}}

# Two layers of width 16 in float32, with logits of a few units: rounding is some 1e-6 whatever the order of sums.
ATOL = 1e-4


def make_engine(backend, name="gqa", kernels="fused"):
    rt = make_runtime(backend, "fp32", kernels)
    config = make_config(**({"max_position_embeddings": 512} | (VARIANTS | LATENT)[name]))
    return Engine(rt, config, make_params(rt, config))


def make_pool(engine, limit_pages=None):
    limit = (
        None
        if limit_pages is None
        else limit_pages * PagePool(engine.rt, engine.config).count_bytes(1)
    )
    return PagePool(engine.rt, engine.config, limit)


def read(engine, pool, rows, ids):
    """The logits (B, V) after the next tokens of each row, one row at a time where their numbers differ."""
    for row, own in zip(rows, ids, strict=True):
        assert row.reserve(len(own))
    if len({len(own) for own in ids}) > 1:
        parts = zip(rows, ids, strict=True)
        return np.concatenate(
            [engine.read(pool, [row], [own], [row.length + len(own)]) for row, own in parts]
        )
    return engine.read(
        pool, rows, ids, [row.length + len(own) for row, own in zip(rows, ids, strict=True)]
    )


def read_densely(engine, ids):
    cache = KVCache.allocate(engine.rt, engine.config, 1, len(ids))
    return engine.feed(cache, [ids])[0]


@pytest.mark.nightly_on("jax")  # it compiles every op for each of the shapes
def test_rows_of_several_lengths_are_each_as_in_a_dense_cache(backend):
    engine = make_engine(backend)
    pool, prompts = make_pool(engine), [draw_ids(7 + n, n).tolist() for n in (1, 63, 64, 130)]
    rows = [pool.acquire(prompt, PARENT) for prompt in prompts]
    logits = read(engine, pool, rows, prompts)
    for _ in range(3):
        for row, scores in zip(rows, logits, strict=True):
            np.testing.assert_allclose(scores, read_densely(engine, row.ids), atol=ATOL)
        logits = read(engine, pool, rows, logits.argmax(-1)[:, None].tolist())


@pytest.mark.parametrize("kernels", ["fused", "portable"])
@pytest.mark.parametrize("name", ["mistral", "qwen2_window", "qwen3", "latent"])
def test_every_kind_of_block(numpy_backend, name, kernels):
    engine = make_engine(numpy_backend, name, kernels)
    pool, prompts = make_pool(engine), [draw_ids(n, n).tolist() for n in (3, 150)]
    rows = [pool.acquire(prompt, PARENT) for prompt in prompts]
    logits = read(engine, pool, rows, prompts)
    for _ in range(2):
        for row, scores in zip(rows, logits, strict=True):
            np.testing.assert_allclose(scores, read_densely(engine, row.ids), atol=ATOL)
        logits = read(engine, pool, rows, logits.argmax(-1)[:, None].tolist())


def test_a_window_keeps_its_window_and_no_more_than_a_page_beside_it(numpy_backend):
    engine = make_engine(numpy_backend, "qwen2_window")  # one layer with a window, one without
    pool = make_pool(engine)
    row, ids = pool.acquire([], PARENT), draw_ids(1, 300).tolist()
    for begin in range(0, 300, 20):
        read(engine, pool, [row], [ids[begin : begin + 20]])
    full, ring = sorted(row.tables, key=lambda table: table.count(DROPPED))
    assert DROPPED not in full
    assert ring == [DROPPED] * (len(ring) - 1) + ring[-1:]
    windowed = [group.book for group in pool.groups if group.window is not None]
    assert [book.n_pages for book in windowed] == [2]  # the most it held at a time


def test_a_beginning_is_shared_and_forks_are_apart(numpy_backend):
    engine = make_engine(numpy_backend)
    pool, ids = make_pool(engine), draw_ids(3, 200).tolist()
    row = pool.acquire(ids, PARENT)
    read(engine, pool, [row], [ids])
    n_pages = pool.groups[0].book.n_pages

    other = pool.acquire(ids, PARENT)
    assert other.ids == ids[: 3 * PAGE]
    assert other.tables[0] == row.tables[0][:3]
    fork = row.fork()
    assert pool.groups[0].book.n_pages == n_pages
    for own, token in ((row, 4), (fork, 5)):
        (scores,) = read(engine, pool, [own], [[token]])
        np.testing.assert_allclose(scores, read_densely(engine, [*ids, token]), atol=ATOL)
    assert row.tables[0][:3] == fork.tables[0][:3]
    assert row.tables[0][3] != fork.tables[0][3]
    for own in (row, other, fork):
        own.release()
    assert pool.held_bytes == 0


def test_beginnings_of_other_parents_are_not_shared(numpy_backend):
    engine = make_engine(numpy_backend)
    pool, ids = make_pool(engine), draw_ids(3, 100).tolist()
    read(engine, pool, [pool.acquire(ids, PARENT)], [ids])
    assert pool.acquire(ids, first_key("somebody else")).length == 0


def test_a_limit_is_kept_and_the_oldest_beginning_goes_first(numpy_backend):
    engine = make_engine(numpy_backend)
    pool = make_pool(engine, limit_pages=4)
    texts = [draw_ids(seed, PAGE + 1).tolist() for seed in range(3)]
    for ids in texts:
        row = pool.acquire(ids, PARENT)
        read(engine, pool, [row], [ids])
        row.release()
    found = [pool.acquire(ids, PARENT) for ids in texts]
    assert [row.length for row in found] == [PAGE] * 3
    row = pool.acquire([], PARENT)
    assert not row.reserve(2 * PAGE)
    assert row.tables == [[]]
    assert row.reserve(PAGE)
    assert pool.n_bytes <= pool.limit_bytes


def test_a_pool_that_could_not_grow_is_as_before(numpy_backend, monkeypatch):
    engine = make_engine(numpy_backend)
    pool, ids = make_pool(engine), draw_ids(5, 40).tolist()
    row, other = pool.acquire(ids, PARENT), pool.acquire(ids, PARENT)
    read(engine, pool, [row], [ids[:-1]])
    allocate = pool._allocate

    def fail_in_a_later_layer(layer, n_pages):
        if layer > 0:
            raise MemoryError
        return allocate(layer, n_pages)

    with monkeypatch.context() as patch:
        patch.setattr(pool, "_allocate", fail_in_a_later_layer)
        with pytest.raises(OutOfMemoryError):
            other.reserve(200)
    assert other.reserve(200)
    (scores,) = read(engine, pool, [row], [ids[-1:]])
    np.testing.assert_allclose(scores, read_densely(engine, ids), atol=ATOL)


def test_a_copy_that_fails_leaves_no_page_behind(numpy_backend, monkeypatch):
    engine = make_engine(numpy_backend, "qwen2_window")  # two groups of layers
    pool, ids = make_pool(engine), draw_ids(5, 40).tolist()
    row = pool.acquire(ids, PARENT)
    read(engine, pool, [row], [ids])
    fork, copy = row.fork(), pool._copy_page

    def fail_in_the_second_group(group, page, to):
        if group is pool.groups[1]:
            raise OutOfMemoryError("no memory")
        copy(group, page, to)

    with monkeypatch.context() as patch:
        patch.setattr(pool, "_copy_page", fail_in_the_second_group)
        with pytest.raises(OutOfMemoryError):
            fork.reserve(100)
    check_books(pool, [row, fork])
    for own, token in ((fork, 4), (row, 5)):
        (scores,) = read(engine, pool, [own], [[token]])
        np.testing.assert_allclose(scores, read_densely(engine, [*ids, token]), atol=ATOL)
    check_books(pool, [row, fork])


def test_where_no_more_can_be_allocated_kept_pages_are_used_again(numpy_backend, monkeypatch):
    engine = make_engine(numpy_backend)
    pool, ids = make_pool(engine, limit_pages=8), draw_ids(5, PAGE).tolist()
    row = pool.acquire(ids, PARENT)
    read(engine, pool, [row], [ids])
    row.release()

    def fail(layer, n_pages):
        raise MemoryError

    monkeypatch.setattr(pool, "_allocate", fail)
    assert row.reserve(PAGE)
    with pytest.raises(OutOfMemoryError):
        row.reserve(PAGE + 1)
    check_books(pool, [row])


def test_a_window_that_has_passed_cannot_be_taken_back(numpy_backend):
    engine = make_engine(numpy_backend, "mistral")
    pool, ids = make_pool(engine), draw_ids(3, 200).tolist()
    row = pool.acquire(ids, PARENT)
    read(engine, pool, [row], [ids])
    assert not row.rollback(100)
    assert row.length == 200
    assert row.rollback(198)
    (scores,) = read(engine, pool, [row], [[9]])
    np.testing.assert_allclose(scores, read_densely(engine, [*ids[:198], 9]), atol=ATOL)


@pytest.mark.parametrize("name", ["gqa", "qwen2_window"])
def test_random_operations_leave_what_a_dense_cache_computes(numpy_backend, name):
    """Rows that begin alike, grow, are taken back, copied and released, in a pool that is often full."""
    engine, rng = make_engine(numpy_backend, name), random.Random(11)
    pool = make_pool(engine, limit_pages=12)
    texts = [draw_ids(seed, 160).tolist() for seed in range(2)]
    rows = []
    for _ in range(120):
        choice = rng.random()
        if choice < 0.3 or not rows:
            text = rng.choice(texts)
            rows.append((pool.acquire(text[: rng.randint(1, 160)], PARENT), list(text)))
        elif choice < 0.65:
            row, text = rng.choice(rows)
            ids = text[row.length : row.length + rng.randint(1, 90)]
            if ids and row.reserve(len(ids)):
                (scores,) = engine.read(pool, [row], [ids], [row.length + len(ids)])
                np.testing.assert_allclose(scores, read_densely(engine, row.ids), atol=ATOL)
        elif choice < 0.75:
            row, text = rng.choice(rows)
            if row.rollback(rng.randint(0, row.length)):
                text[row.length :] = draw_ids(rng.randint(0, 9), 160 - row.length).tolist()
        elif choice < 0.85:
            row, text = rng.choice(rows)
            rows.append((row.fork(), list(text)))
        else:
            rows.pop(rng.randrange(len(rows)))[0].release()
        assert pool.n_bytes <= pool.limit_bytes
    for row, _ in rows:
        row.release()
    assert pool.held_bytes == 0

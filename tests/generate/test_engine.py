"""The engine: how the ids are fed makes no difference to the logits."""

from dataclasses import replace

import numpy as np
import pytest

from tests.generate.tiny import tiny_model
from xplm.backend import DeviceMemory
from xplm.cache import KVCache
from xplm.errors import OutOfMemoryError, RequestError
from xplm.generate.engine import fill_up

# Two layers of width 32 in float32, with logits of a few units: rounding is some 1e-6 whatever the order of sums.
ATOL = 1e-4


@pytest.fixture(scope="module")
def engine():
    return tiny_model().engine


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(0).integers(0, 258, 40)


def test_a_shorter_row_is_filled_up_with_its_last_id():
    ids = fill_up([[1, 2, 3], [4], [5, 6]])
    assert ids.dtype == np.int64
    assert ids.tolist() == [[1, 2, 3], [4, 4, 4], [5, 6, 6]]


def test_rows_of_one_length_are_not_filled_up():
    assert fill_up([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    assert fill_up(np.array([[1, 2], [3, 4]])).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("window", [None, 5])
def test_whole_prompt_token_by_token_and_chunks_of_7_agree(ids, window):
    changes = {"model_type": "mistral", "sliding_window": window} if window else {}
    engine = tiny_model(**changes).engine
    expected = engine.logits(ids)

    cache = engine.allocate(1, 40)
    by_token = np.stack([engine.feed(cache, ids[None, t : t + 1])[0] for t in range(40)])
    np.testing.assert_allclose(by_token, expected, atol=ATOL)

    cache = engine.allocate(1, 40)
    by_chunk = replace(engine, chunk_tokens=7).feed(cache, ids[None])
    assert cache.length == 40
    np.testing.assert_allclose(by_chunk[0], expected[-1], atol=ATOL)


def test_single_tokens_take_steps_that_are_bound_once(ids, engine):
    calls = []

    def bind_blocks(*arguments, **options):
        calls.append("bind")
        step = engine.rt.ops.bind_blocks(*arguments, **options)
        return lambda *given: calls.append("step") or step(*given)

    rt = replace(engine.rt, kernels={**engine.rt.kernels, "bind_blocks": bind_blocks})
    counted = replace(engine, rt=rt)
    cache = counted.allocate(1, 6)
    for part in (ids[None, :3], ids[None, 3:4], ids[None, 4:5]):
        counted.feed(cache, part)
    assert calls == ["bind", "step", "step"]


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 512])
def test_rows_of_different_lengths_are_each_as_alone(ids, window, chunk_tokens):
    """Their lengths end within a chunk, at its edge, and chunks before others' end."""
    changes = {"model_type": "mistral", "sliding_window": window} if window else {}
    engine = tiny_model(**changes).engine
    rows = [ids[:3].tolist(), ids[3:20].tolist(), ids[20:21].tolist(), ids[21:35].tolist()]
    cache = engine.allocate(4, 20)
    cut = replace(engine, chunk_tokens=chunk_tokens)
    logits = cut.feed(cache, rows)
    assert cache.lengths == (3, 17, 1, 14)
    for row, alone in enumerate(rows):
        np.testing.assert_allclose(logits[row], engine.logits(alone)[-1], atol=ATOL)

    more = [[5], [6, 7, 8], [9, 10], [11]]
    logits = cut.feed(cache, more)
    assert cache.lengths == (4, 20, 3, 15)
    for row, (old, new) in enumerate(zip(rows, more, strict=True)):
        np.testing.assert_allclose(logits[row], engine.logits([*old, *new])[-1], atol=ATOL)


def test_progress_counts_the_longest_row(engine, ids):
    told = []
    cut = replace(engine, chunk_tokens=7, progress=lambda *what: told.append(what[1:]))
    cut.feed(engine.allocate(2, 15), [ids[:15].tolist(), ids[:2].tolist()])
    assert told == [(0, 15), (7, 15), (14, 15), (15, 15)]


def test_rollback_then_feed_equals_never_having_fed(engine, ids):
    cache, fresh = engine.allocate(1, 40), engine.allocate(1, 40)
    engine.feed(cache, ids[None, :10])
    engine.feed(fresh, ids[None, :10])

    engine.feed(cache, ids[None, 10:25])
    cache.rollback(10)
    logits = [engine.feed(c, ids[None, 30:35]) for c in (cache, fresh)]
    np.testing.assert_array_equal(logits[0], logits[1])


def test_logits_are_float32_on_the_host(engine):
    logits = engine.logits([1, 2, 3])
    assert isinstance(logits, np.ndarray)
    assert (logits.shape, logits.dtype) == ((3, 258), np.dtype(np.float32))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "a prompt must hold at least one token; got none"),
        ([0] * 257, "context of 256 tokens; got 257 tokens"),
        ([5, 258], "at least 0 and below 258; got 258"),
        ([-1], "at least 0 and below 258; got -1"),
    ],
)
def test_ids_that_cannot_be_read_are_refused(engine, ids, message):
    with pytest.raises(RequestError, match=message):
        engine.check_ids(ids)


@pytest.mark.parametrize("ids", [[1.7], [3, np.float32(2)], [True], ["a"], np.float64([1.0, 2.5])])
def test_ids_that_are_no_integers_are_refused(engine, ids):
    with pytest.raises(RequestError, match="token ids must be integers"):
        engine.check_ids(ids)


def test_a_cache_beyond_the_memory_is_refused_and_one_within_it_is_not(engine):
    total = 10 * KVCache.count_bytes(engine.rt, engine.config, 1, 1)
    memory = DeviceMemory(used=0, peak=0, total=2 * total, free=total)
    backend = replace(engine.rt.backend, memory=lambda: memory)
    small = replace(engine, rt=replace(engine.rt, backend=backend))
    assert small.allocate(2, 5).n_bytes == total
    with pytest.raises(
        OutOfMemoryError, match=r"values of 1 x 11 tokens must fit the free memory of cpu"
    ):
        small.allocate(1, 11)

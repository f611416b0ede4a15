"""Rows of very different lengths in one batch: each as alone, on every backend."""

import numpy as np
import pytest

from tests.tiny import VARIANTS, draw_ids, make_config, make_params
from xplm.generate.engine import Engine
from xplm.runtime import make_runtime

LENGTHS = (1, 7, 64, 300)
NEW = 16

# Two layers of width 16 in float32, with logits of a few units: rounding is some 1e-6 whatever the order of sums.
ATOL = 1e-4


def make_engine(backend, kernels="fused", chunk_tokens=512, **changes):
    rt = make_runtime(backend, "fp32", kernels)
    config = make_config(**{"max_position_embeddings": 512} | changes)
    return Engine(rt, config, make_params(rt, config), chunk_tokens)


def draw_prompts():
    return [draw_ids(70 + n, n).tolist() for n in LENGTHS]


def generate(engine, prompts):
    """Greedy ids (B, NEW) and their logits (B, NEW, V)."""
    cache = engine.allocate(len(prompts), max(map(len, prompts)) + NEW)
    logits = [engine.feed(cache, prompts)]
    for _ in range(NEW - 1):
        logits.append(engine.feed(cache, logits[-1].argmax(-1)[:, None]))
    found = np.stack(logits, axis=1)
    return found.argmax(-1), found


def assert_each_as_alone(engine, prompts):
    ids, logits = generate(engine, prompts)
    for row, prompt in enumerate(prompts):
        (alone,), (expected,) = generate(engine, [prompt])
        assert ids[row].tolist() == alone.tolist()
        np.testing.assert_allclose(logits[row], expected, atol=ATOL)


@pytest.mark.nightly_on("jax")  # it compiles every op for each of the shapes
def test_rows_of_1_7_64_and_300_tokens_are_each_as_alone(backend):
    assert_each_as_alone(make_engine(backend), draw_prompts())


@pytest.mark.parametrize("name", ["mistral", "qwen2_window", "qwen3", "dynamic", "longrope"])
@pytest.mark.parametrize("kernels", ["fused", "portable"])
def test_rows_of_every_kind_of_block_are_each_as_alone(numpy_backend, kernels, name):
    assert_each_as_alone(make_engine(numpy_backend, kernels, **VARIANTS[name]), draw_prompts())


@pytest.mark.parametrize("chunk_tokens", [50, 64])
@pytest.mark.parametrize("kernels", ["fused", "portable"])
def test_rows_in_chunks_are_each_as_alone(numpy_backend, kernels, chunk_tokens):
    assert_each_as_alone(make_engine(numpy_backend, kernels, chunk_tokens), draw_prompts())


def test_the_order_of_rows_does_not_matter(numpy_backend):
    engine, prompts = make_engine(numpy_backend), draw_prompts()
    ids, _ = generate(engine, prompts)
    swapped, _ = generate(engine, prompts[::-1])
    assert swapped[::-1].tolist() == ids.tolist()


@pytest.mark.parametrize("kernels", ["fused", "portable"])
def test_rows_that_leave_and_rows_given_twice(numpy_backend, kernels):
    """Every few tokens some leave, the longest among them; what is left goes on as if it had been alone."""
    engine, prompts = make_engine(numpy_backend, kernels), draw_prompts()
    cache = engine.allocate(4, 300 + NEW)
    rows = [list(prompt) for prompt in prompts]
    logits = engine.feed(cache, rows)
    for chosen in ([0, 1, 2, 3], [3, 0, 2, 0], [0, 2, 1], [1, 2]):
        cache, logits = cache.select(chosen), logits[chosen]
        rows = [list(rows[i]) for i in chosen]
        for _ in range(4):
            for row, scores in zip(rows, logits, strict=True):
                row.append(int(scores.argmax()))
            logits = engine.feed(cache, [row[-1:] for row in rows])
    assert [len(row) for row in rows] == [64 + NEW, 1 + NEW]
    for row, scores in zip(rows, logits, strict=True):
        np.testing.assert_allclose(scores, engine.logits(row)[-1], atol=ATOL)

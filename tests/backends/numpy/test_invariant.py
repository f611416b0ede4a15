"""Kernels "invariant": a row's logits are the same bits whatever is computed beside it, and in how many calls."""

from dataclasses import replace

import numpy as np
import pytest

from tests.kinds import KINDS
from xplm.backend import load_backend
from xplm.cache import KVCache
from xplm.errors import BackendError
from xplm.generate.engine import Engine
from xplm.layers.step import Steps
from xplm.models.decoder import forward, param_specs
from xplm.numerics.tiny_models import draw_params, tiny_config
from xplm.page_pool import PagePool
from xplm.pages import first_key
from xplm.runtime import make_runtime

LENGTHS = (150, 1, 66, 130, 17, 64, 3)
"""Tokens of the prompts: less than a block of keys, a whole one, and more than two."""
NEW = 3
"""Tokens that follow each."""

PARENT = first_key("somebody")

SHORT_PAGED = ("llama", "gemma3_text")
FAMILIES = ("llama", "qwen3", "mixtral", *KINDS)
BACKEND = load_backend("numpy")


class Model:
    """A tiny model in the mode."""

    def __init__(self, model_type, policy):
        self.rt = make_runtime(BACKEND, policy, "invariant")
        config = tiny_config({"model_type": model_type})
        self.config = replace(config, max_position_embeddings=256)
        drawn = draw_params(param_specs(self.config), seed=1)
        self.params = {k: a.astype(self.rt.host_dtype.param) for k, a in drawn.items()}
        self.steps = Steps(self.rt, self.config, self.params)
        rng = np.random.default_rng(2)
        self.prompts = [rng.integers(0, config.vocab_size, n + NEW) for n in LENGTHS]

    def read(self, rows, chunk):
        """Of each row the logits behind its prompt and behind each of the NEW tokens that follow."""
        prompts = [self.prompts[row % len(LENGTHS)] for row in rows]
        longest = max(map(len, prompts))
        cache = KVCache.allocate(self.rt, self.config, len(rows), longest + chunk)
        found = [[] for _ in rows]
        ends = [len(ids) - NEW for ids in prompts]
        at = [0] * len(rows)
        while any(n < len(ids) for n, ids in zip(at, prompts, strict=True)):
            is_prompt = any(n < end for n, end in zip(at, ends, strict=True))
            takes = [
                min(chunk, end - n) if is_prompt else min(1, len(ids) - n)
                for n, end, ids in zip(at, ends, prompts, strict=True)
            ]
            counts = [max(0, n) for n in takes]
            T = max(counts)
            ids = np.zeros((len(rows), T), np.int64)
            for row, (n, count) in enumerate(zip(at, counts, strict=True)):
                ids[row, :count] = prompts[row][n : n + count]
            logits = forward(
                self.rt,
                self.config,
                self.params,
                ids,
                cache,
                counts=counts,
                last_only=True,
                steps=self.steps,
            )
            at = [n + count for n, count in zip(at, counts, strict=True)]
            for row, count in enumerate(counts):
                if count and at[row] >= ends[row]:
                    found[row].append(logits[row, 0].view(np.uint32))
        return found

    def read_pages(self, pool, rows, chunk):
        """The same of rows in pages, which read their prompts one by one, and what follows together."""
        engine = Engine(self.rt, self.config, self.params)
        prompts = [self.prompts[row] for row in rows]
        held = [pool.acquire(ids[:-NEW].tolist(), PARENT) for ids in prompts]
        found = []
        for row, ids in zip(held, prompts, strict=True):
            end = len(ids) - NEW
            while row.length < end:
                taken = ids[row.length : min(row.length + chunk, end)].tolist()
                assert row.reserve(len(taken))
                logits = engine.read(pool, [row], [taken], [end])
            found.append([logits[0].view(np.uint32)])
        for n in range(-NEW, 0):
            assert all(row.reserve(1) for row in held)
            taken = [[int(ids[n])] for ids in prompts]
            logits = engine.read(pool, held, taken, [row.length + 1 for row in held])
            for own, of_row in zip(found, logits, strict=True):
                own.append(of_row.view(np.uint32))
        for row in held:
            row.release()
        return found


def assert_same(found, expected):
    for row, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.stack(row), np.stack(other))


BATCHES = [  # rows, tokens of a chunk, threads
    ([0], 1, 1),
    ([3, 1], 16, 2),
    ([3, 0, 5, 6, 2, 4, 1], 512, 1),
    ([3, 0, 5, 6, 2, 4, 1], 16, 2),
    ([row % 7 for row in range(31, -1, -1)], 16, 1),
]


def is_short(model_type, policy):
    """Whether the short run takes a case: all families once, and all policies."""
    return policy == ("fp32" if model_type != "llama" else "bf16")


@pytest.mark.parametrize(
    ("model_type", "policy"),
    [
        pytest.param(m, p, marks=() if is_short(m, p) else pytest.mark.nightly)
        for m in FAMILIES
        for p in ("fp32", "bf16", "fp16")
    ],
)
def test_a_rows_logits_do_not_depend_on_what_is_computed_beside_them(
    model_type, policy, on_threads
):
    model = Model(model_type, policy)
    alone = [model.read([row], 512)[0] for row in range(len(LENGTHS))]
    for rows, chunk, threads in BATCHES:
        assert_same(on_threads(threads, model.read, rows, chunk), [alone[row] for row in rows])


@pytest.mark.parametrize(
    "model_type",
    [m if m in SHORT_PAGED else pytest.param(m, marks=pytest.mark.nightly) for m in FAMILIES],
)
def test_nor_on_the_kind_of_cache_nor_on_a_prefix_that_is_held(model_type):
    model = Model(model_type, "fp32")
    alone = [model.read([row], 512)[0] for row in range(len(LENGTHS))]
    pool = PagePool(model.rt, model.config)
    rows = [3, 0, 6, 1]
    for chunk in (16, 512, 512):
        assert_same(model.read_pages(pool, rows, chunk), [alone[row] for row in rows])
    assert pool.acquire(model.prompts[3][:-NEW].tolist(), PARENT).length == 128


def test_what_cannot_be_promised_is_refused():
    with pytest.raises(BackendError, match='backend "strict" has none'):
        make_runtime(load_backend("strict"), "fp32", "invariant")
    with pytest.raises(BackendError, match="emulated"):
        make_runtime(BACKEND, "fp8", "invariant")
    for policy in ("fp64", "bf16,softmax=bf16"):
        with pytest.raises(BackendError, match="use fp32, bf16 or fp16"):
            make_runtime(BACKEND, policy, "invariant")

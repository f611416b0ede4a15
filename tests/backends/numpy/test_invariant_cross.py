"""Kernels "invariant", everything at once: 64 prompts in batches, chunks, threads, kinds of cache, cold and warm."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from tests.generate.alone import compute_alone, make_model
from xplm.generate.options import SamplingOptions
from xplm.generate.reply import start_reply
from xplm.generate.request import Request
from xplm.generate.scheduler import Scheduler
from xplm.page_pool import PagePool

N_PROMPTS, LONGEST, NEW = 64, 150, 3
ALL = 512
"""Tokens of a chunk, more than any prompt has."""

BATCHES, CHUNKS, THREADS = (1, 2, 7, 32), (1, 16, ALL), (1, 2)
OPTIONS = SamplingOptions(max_new_tokens=NEW, ignore_eos=True)


class Recorder:
    """A constraint that allows everything, and has the bits of the logits that each token was chosen from."""

    is_complete = False

    def __init__(self):
        self.bits = []

    def mask(self, logits):
        self.bits.append(logits.view(np.uint32).copy())
        return logits

    def push(self, token):
        pass


class Cross:
    """A tiny model, prompts, and what each gives when it is read by itself, densely and in one pass."""

    def __init__(self, kind, policy):
        self.lm, rng = make_model(kind, policy), np.random.default_rng(3)
        lengths = [*rng.integers(2, LONGEST, N_PROMPTS - 3), 64, 65, 128]
        self.prompts = [rng.integers(2, 258, n).tolist() for n in lengths]
        self.bits, self.replies = [], []
        for ids in self.prompts:
            recorder = Recorder()
            reply = compute_alone(self.lm, ids, OPTIONS, constraint=recorder)
            self.bits.append(np.stack(recorder.bits))  # (NEW, V)
            self.replies.append(reply.ids)

    def engine(self, chunk):
        return replace(self.lm.engine, chunk_tokens=chunk)

    def read_densely(self, rows, chunk, *, is_warm):
        """The bits of rows in a dense cache; warm: a part of each is there, read in one pass."""
        longest = max(len(self.prompts[row]) for row in rows)
        cache = self.lm.engine.allocate(len(rows), 2 * (longest + NEW))
        prompts = [self.prompts[row] for row in rows]
        held = [len(ids) // 2 if is_warm else 0 for ids in prompts]
        if is_warm:
            parts = zip(prompts, held, strict=True)
            self.engine(ALL).feed(cache, [ids[:n] for ids, n in parts])
        rest = [ids[n:] for ids, n in zip(prompts, held, strict=True)]
        found = [self.engine(chunk).feed(cache, rest)]
        for n in range(NEW - 1):
            found.append(self.engine(chunk).feed(cache, [[self.replies[row][n]] for row in rows]))
        return np.stack(found, axis=1).view(np.uint32)

    def read_pages(self, pool, rows, batch, chunk):
        """The bits of rows that one scheduler serves, `batch` at a time; and how many tokens it found."""
        engine = self.engine(chunk)
        scheduler, requests, recorders = Scheduler(engine, pool, most_rows=batch), [], []
        for row in rows:
            recorders.append(Recorder())
            given = {"continues_prompt": False, "constraint": recorders[-1]}
            reply = start_reply(engine, self.lm.tokenizer, self.prompts[row], OPTIONS, **given)
            requests.append(Request(reply))
            scheduler.submit(requests[-1])
        while not scheduler.is_idle:
            assert all(event.error is None for event in scheduler.step())
        reused = sum(request.reused_tokens for request in requests)
        return [np.stack(recorder.bits) for recorder in recorders], reused

    def check(self, rows, found, case):
        for row, bits in zip(rows, found, strict=True):
            np.testing.assert_array_equal(bits, self.bits[row], err_msg=f"prompt {row}, {case}")

    def run(self, cases, n_prompts, on_threads):
        rng = np.random.default_rng(4)
        for batch, chunk, threads in cases:
            case = f"batch {batch}, chunk {chunk}, threads {threads}"
            order = rng.permutation(N_PROMPTS)[:n_prompts].tolist()
            for is_warm, begin in product((False, True), range(0, n_prompts, batch)):
                rows = order[begin : begin + batch]
                found = on_threads(threads, self.read_densely, rows, chunk, is_warm=is_warm)
                self.check(rows, found, f"{case}, dense, {is_warm=}")

            pool = PagePool(self.lm.rt, self.lm.config, 1 << 30)
            for is_warm in (False, True):
                found, reused = on_threads(threads, self.read_pages, pool, order, batch, chunk)
                self.check(order, found, f"{case}, pages, {is_warm=}")
                n_pages = sum((len(self.prompts[row]) - 1) // 64 for row in order)
                assert reused == is_warm * 64 * n_pages


@pytest.fixture(autouse=True)
def whole_chunks(monkeypatch):
    """Whoever decodes bears chunks of any length."""
    monkeypatch.setattr("xplm.generate.scheduler.PATIENCE", 1e9)


@pytest.mark.parametrize(("kind", "policy"), [("mixed", "fp32"), ("window", "bf16")])
def test_a_sample(kind, policy, on_threads):
    Cross(kind, policy).run([(7, 16, 2), (32, ALL, 1)], 12, on_threads)


@pytest.mark.nightly
@pytest.mark.parametrize("policy", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", ["full", "window", "mixed", "latent"])
def test_the_whole(kind, policy, on_threads):
    Cross(kind, policy).run(product(BATCHES, CHUNKS, THREADS), N_PROMPTS, on_threads)


@pytest.mark.parametrize("kind", ["full", "window", "mixed"])
def test_a_pass_without_a_cache_has_the_bits_of_one_over_a_cache(kind):
    lm = make_model(kind)
    ids = np.random.default_rng(5).integers(2, 258, 150).tolist()
    whole = lm.logits(ids)
    for length in (1, 41, 71, len(ids)):
        cache = lm.engine.allocate(1, length)
        np.testing.assert_array_equal(lm.engine.feed(cache, [ids[:length]])[0], whole[length - 1])

"""Models hold their number of threads while they compute, and only then."""

import threading
from contextlib import contextmanager
from dataclasses import replace

import numba
import numpy as np
import pytest

from tests.generate.tiny import tiny_model
from xplm.backend import load_backend
from xplm.generate.fragility import compute_margins
from xplm.models import decoder
from xplm.train.data import Batch
from xplm.train.evaluate import evaluate

MOST = numba.config.NUMBA_NUM_THREADS
OPTIONS = {"max_new_tokens": 6}


class Watched:
    """A backend that knows whether something computes."""

    def __init__(self):
        self.is_computing, self.n_entered = False, 0
        self.backend = replace(load_backend("numpy"), computing=self.computing)

    @contextmanager
    def computing(self):
        self.is_computing, self.n_entered = True, self.n_entered + 1
        yield
        self.is_computing = False


def test_nothing_is_held_between_two_pieces_of_a_stream():
    watched = Watched()
    lm = tiny_model(2, backend=watched.backend)
    for _ in lm.stream("Hello", **OPTIONS):
        assert not watched.is_computing
    assert watched.n_entered >= OPTIONS["max_new_tokens"]


BATCH = Batch(np.ones((2, 4), np.int64), np.ones((2, 4), np.int64))


@pytest.mark.parametrize(
    "compute",
    [
        lambda lm: lm.logits([1, 2]),
        lambda lm: lm.perplexity([1, 2, 3], window=2),
        lambda lm: compute_margins(lm.engine, [[1, 2]], [[3, 4, 5]]),
        lambda lm: evaluate(lm.rt, lm.config, lm.params, [BATCH]),
    ],
    ids=["logits", "perplexity", "margins", "evaluation"],
)
def test_every_pass_is_made_while_it_is_held(compute, monkeypatch):
    watched, forward, passes = Watched(), decoder.forward, []

    def watching(*arguments, **options):
        passes.append(watched.is_computing)
        return forward(*arguments, **options)

    for module in ("xplm.models.decoder", "xplm.generate.fragility", "xplm.train.evaluate"):
        monkeypatch.setattr(f"{module}.forward", watching)
    compute(tiny_model(2, backend=watched.backend))
    assert passes
    assert all(passes)
    assert not watched.is_computing


def test_two_models_have_numbers_of_their_own_in_two_python_threads(monkeypatch):
    forward, seen = decoder.forward, {}
    alone = tiny_model(2).generate("Hello", **OPTIONS).token_ids
    models = {n: tiny_model(2, backend=load_backend("numpy", threads=n)) for n in {1, MOST}}

    def watching(rt, *arguments, **options):
        seen.setdefault(threading.current_thread().name, set()).add(numba.get_num_threads())
        return forward(rt, *arguments, **options)

    monkeypatch.setattr("xplm.models.decoder.forward", watching)
    replies = {}

    def work(n):
        before = numba.get_num_threads()
        replies[n] = [models[n].generate("Hello", **OPTIONS).token_ids for _ in range(3)]
        assert numba.get_num_threads() == before

    workers = [threading.Thread(target=work, args=(n,), name=str(n)) for n in models]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert seen == {str(n): {n} for n in models}
    assert replies == {n: [alone] * 3 for n in models}

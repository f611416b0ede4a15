"""Requests to one scheduler under random operations, in a pool that is often full: the bits of a computation alone."""

import gc
import random
import secrets
from dataclasses import dataclass, field

import numpy as np
import pytest

from tests.generate.alone import CONTEXT, KINDS, compute_alone, make_model, play
from tests.page_books import check_books
from xplm.cache import KVCache
from xplm.generate.options import SamplingOptions
from xplm.generate.prompt_scores import PromptScores
from xplm.generate.reply import start_reply
from xplm.generate.request import Request
from xplm.generate.scheduler import Scheduler
from xplm.models import decoder
from xplm.page_pool import PagePool

OWNERS = ("one", "another")
MOST_TALKS, MOST_ROWS, LIMIT_PAGES = 8, 5, 7


@dataclass(eq=False)
class Talk:
    """A conversation as a client of a server has it: tokens, which it sends whole."""

    owner: str
    turns: list[list[int]] = field(default_factory=list)  # the user's tokens and the answer's
    said: list[int] = field(default_factory=list)  # of the turn that is being answered
    request: Request | None = None

    @property
    def ids(self):
        return [token for turn in self.turns for token in turn]


class World:
    """A scheduler whose pool holds two talks or three, and what is asked of it."""

    def __init__(self, kind, seed):
        self.rng, self.lm = random.Random(seed), make_model(kind)
        self.talks = [Talk(owner) for owner in 3 * OWNERS]
        self.n_replies = self.n_reused = self.n_preemptions = 0
        self.start()

    def start(self):
        pool = PagePool(self.lm.rt, self.lm.config)
        pool.limit_bytes = LIMIT_PAGES * pool.count_bytes(1)
        self.scheduler = Scheduler(self.lm.engine, pool, most_rows=MOST_ROWS)
        # A time would choose, and no seed would repeat what it chose.
        self.scheduler._bearable_tokens = lambda: self.rng.choice((16, 48, 512))

    def act(self):
        actions = {
            self.send: 10,
            self.step: 14,
            self.cancel: 1,
            self.rollback: 2,
            self.fork: 2,
            self.edit: 2,
            self.evict: 1,
        }
        (action,) = self.rng.choices([*actions], [*actions.values()])
        if self.rng.random() < 0.004:
            action = self.restart
        action(self.rng.choice(self.talks))
        self.check_pages()

    def check_pages(self):
        rows = [request.row for request in self.scheduler.admitted + self.scheduler.waiting]
        check_books(self.scheduler.pool, [row for row in rows if row is not None])

    def draw_ids(self, most):
        return [self.rng.randrange(2, 258) for _ in range(self.rng.randint(1, most))]

    def send(self, talk):
        if talk.request is not None:
            return
        said = self.draw_ids(self.rng.choice((5, 90)))
        options = {"max_new_tokens": self.rng.randint(1, 70), "ignore_eos": True}
        if self.rng.random() < 0.5:
            options |= {"temperature": 1.0, "top_p": 0.9, "seed": self.rng.randint(0, 99)}
        options["top_logprobs"] = self.rng.choice((0, 3))
        if len(talk.ids) + len(said) + options["max_new_tokens"] > CONTEXT:
            talk.turns.clear()
        reply = start_reply(
            self.lm.engine,
            self.lm.tokenizer,
            talk.ids + said,
            SamplingOptions(**options),
            continues_prompt=False,
        )
        talk.said = said
        first = self.rng.randint(1, len(reply.prompt_ids)) if self.rng.random() < 0.15 else None
        talk.request = Request(reply, talk.owner, scored_from=first)
        self.scheduler.submit(talk.request)

    def step(self, _):
        for _ in range(self.rng.randint(1, 12)):
            for event in self.scheduler.step():
                assert event.error is None
                if event.request.reply.finish_reason is not None:
                    (talk,) = [talk for talk in self.talks if talk.request is event.request]
                    self.end_turn(talk)

    def end_turn(self, talk):
        request, reply = talk.request, talk.request.reply
        expected = compute_alone(self.lm, reply.prompt_ids, reply.options)
        assert reply.ids == expected.ids
        assert reply.logprobs == expected.logprobs
        assert reply.top_logprobs == expected.top_logprobs
        if request.prompt_scores is not None:
            self.check_scores(request)
        talk.turns.append([*talk.said, *reply.ids])
        talk.request = None
        timings = request.result().timings
        assert timings.prefill_tokens >= len(reply.prompt_ids) - timings.reused_tokens > 0
        self.n_replies += 1
        self.n_reused += timings.reused_tokens

    def check_scores(self, request):
        rt, ids = self.lm.rt, request.reply.prompt_ids
        cache = KVCache.allocate(rt, self.lm.config, 1, len(ids))
        logits = decoder.forward(rt, self.lm.config, self.lm.params, np.asarray([ids]), cache)
        expected = PromptScores(ids, request.reply.options.top_logprobs, request.scored_from)
        expected.push(0, logits[0])
        assert request.prompt_scores.logprobs == expected.logprobs
        assert request.prompt_scores.top == expected.top

    def cancel(self, talk):
        if talk.request is not None:
            self.scheduler.cancel(talk.request)
            expected = compute_alone(
                self.lm, talk.request.reply.prompt_ids, talk.request.reply.options
            )
            assert talk.request.reply.ids == expected.ids[: len(talk.request.reply.ids)]
            talk.request = None

    def rollback(self, talk):
        if talk.request is None:
            del talk.turns[self.rng.randint(0, len(talk.turns)) :]

    def fork(self, talk):
        if len(self.talks) == MOST_TALKS:
            self.cancel(gone := self.rng.choice(self.talks))
            self.talks.remove(gone)
        self.talks.append(Talk(talk.owner, [[*turn] for turn in talk.turns]))

    def edit(self, talk):
        """Other words for a turn in the middle; what follows stays."""
        if talk.request is None and talk.turns:
            turn = self.rng.choice(talk.turns)
            begin = self.rng.randrange(len(turn))
            turn[begin : begin + 20] = self.draw_ids(20)

    def evict(self, _):
        """Have something else take all pages that are free or kept."""
        pool = self.scheduler.pool
        row = pool.acquire([], b"something else")
        n_pages = min(
            pool.most_pages - group.book.n_pages + group.book.n_available for group in pool.groups
        )
        assert row.reserve(64 * n_pages)
        row.release()

    def restart(self, _):
        """Begin again with an empty pool; whoever was being served is not."""
        for talk in self.talks:
            self.cancel(talk)
        self.rest()
        self.start()

    def rest(self):
        assert self.scheduler.is_idle
        self.check_pages()
        assert self.scheduler.pool.held_bytes == 0
        self.n_preemptions += self.scheduler.preemptions

    def end(self):
        """Serve whoever is left: then no page is held."""
        while not self.scheduler.is_idle:
            self.step(None)
        gc.collect()
        self.rest()


def run(kind, seed, count):
    return play(World(kind, seed), kind, seed, count)


@pytest.mark.parametrize("kind", KINDS)
def test_replies_have_the_bits_of_a_computation_alone(kind):
    world = run(kind, 1, 150)
    assert world.n_replies > 10
    assert world.n_reused > 0
    assert world.n_preemptions > 0


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
def test_so_have_those_of_thousands_of_operations(kind):
    """With another seed each night; the note of a failure says which."""
    run(kind, secrets.randbelow(1 << 32), 3000)

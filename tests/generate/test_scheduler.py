"""Requests served together: each reply is what it is alone, whoever joins, leaves, waits or has to give way."""

import random

import numpy as np
import pytest

from tests.generate.tiny import tiny_model
from tests.tiny import VARIANTS
from xplm.errors import OutOfMemoryError, RequestError
from xplm.generate.engine import Engine
from xplm.generate.options import SamplingOptions
from xplm.generate.reply import start_reply
from xplm.generate.request import Request
from xplm.generate.scheduler import LEAST_CHUNK, Scheduler
from xplm.page_pool import PagePool
from xplm.views import PAGE

OWNER = "somebody"
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.5, 2.0, 2.5],
    "long_factor": [2.0, 5.0, 6.0, 7.0],
    "original_max_position_embeddings": 128,
}
ROTATIONS = {
    "longrope": {"rope_scaling": LONGROPE, "max_position_embeddings": 256},
    "dynamic": {
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
        "max_position_embeddings": 128,
    },
}
SAMPLED = {"temperature": 1.0, "top_p": 0.9}


def make_scheduler(lm, limit_pages=None, **options):
    pool = PagePool(lm.rt, lm.config)
    if limit_pages is not None:
        pool.limit_bytes = limit_pages * pool.count_bytes(1)
    return Scheduler(lm.engine, pool, **options)


def make_request(lm, ids, owner=OWNER, *, scored_from=None, **options):
    options = SamplingOptions(**({"max_new_tokens": 12, "ignore_eos": True} | options))
    reply = start_reply(lm.engine, lm.tokenizer, ids, options, continues_prompt=True)
    return Request(reply, owner, scored_from=scored_from)


def draw_prompt(seed, length):
    return np.random.default_rng(seed).integers(2, 258, length).tolist()


def serve(scheduler):
    """Steps until nobody is left; all events."""
    events = []
    while not scheduler.is_idle:
        events += scheduler.step()
    return events


def serve_alone(lm, ids, **options):
    request = make_request(lm, ids, **options)
    scheduler = make_scheduler(lm)
    scheduler.submit(request)
    serve(scheduler)
    return request.reply.ids


@pytest.mark.nightly_on("jax")  # it compiles every op for each of the shapes
def test_replies_together_are_each_as_alone(backend):
    lm = tiny_model(backend=backend)
    prompts = [draw_prompt(n, n) for n in (1, 40, 130)]
    scheduler = make_scheduler(lm)
    requests = [make_request(lm, ids, seed=n, **SAMPLED) for n, ids in enumerate(prompts)]
    for request in requests:
        scheduler.submit(request)
    events = serve(scheduler)
    for n, (request, ids) in enumerate(zip(requests, prompts, strict=True)):
        assert request.reply.ids == serve_alone(lm, ids, seed=n, **SAMPLED)
        parts = [part.text for event in events if event.request is request for part in event.parts]
        assert "".join(parts) == request.result().text
    assert scheduler.pool.held_bytes == 0


@pytest.mark.parametrize("name", ["gqa", "qwen2_window", "dynamic", "longrope"])
@pytest.mark.parametrize("limit_pages", [4, None])
def test_random_arrivals_and_departures_change_no_reply(name, limit_pages):
    """With room for one long reply and little more, most have to give way; with rotations that grow, too."""
    lm = tiny_model(**(VARIANTS | ROTATIONS)[name])
    rng = random.Random(3)
    scheduler = make_scheduler(lm, limit_pages, most_rows=4)
    texts = [draw_prompt(n, 150) for n in range(3)]
    asked = []
    for n in range(14):
        ids = rng.choice(texts)[: rng.randint(1, 150)]
        options = {"seed": n, "max_new_tokens": rng.randint(1, 40)} | (SAMPLED if n % 2 else {})
        asked.append((make_request(lm, ids, **options), ids, options))
        scheduler.submit(asked[-1][0])
        for _ in range(rng.randint(0, 12)):
            scheduler.step()
    gone = [asked[3][0], asked[8][0]]
    for request in gone:
        scheduler.cancel(request)
    serve(scheduler)
    for request, ids, options in asked:
        alone = serve_alone(lm, ids, **options)
        if request in gone and request.reply.finish_reason is None:
            assert request.reply.ids == alone[: len(request.reply.ids)]
        else:
            assert request.reply.ids == alone
    assert scheduler.pool.held_bytes == 0
    assert (scheduler.preemptions > 0) == (limit_pages is not None)


@pytest.mark.parametrize("most_rows", [1, 2])
def test_no_owners_requests_keep_another_owners_out(most_rows):
    lm = tiny_model()
    scheduler = make_scheduler(lm, most_rows=most_rows)
    many = [make_request(lm, [5], "many", max_new_tokens=4) for _ in range(20)]
    few = [make_request(lm, [5], "few", max_new_tokens=4) for _ in range(3)]
    for request in many:
        scheduler.submit(request)
    scheduler.step()
    for request in few:
        scheduler.submit(request)
    ended = [e.request for e in serve(scheduler) if e.request.reply.finish_reason is not None]
    order = [request.owner for request in dict.fromkeys(ended)]
    turns = ["few", "many"] * 3
    assert order[: most_rows + 6] == ["many"] * most_rows + turns
    assert [r for r in dict.fromkeys(ended) if r.owner == "many"] == many


def test_a_prompt_is_read_in_chunks_between_tokens():
    lm = tiny_model()
    scheduler = make_scheduler(lm)
    short = make_request(lm, [5], max_new_tokens=100)
    scheduler.submit(short)
    for _ in range(3):
        scheduler.step()
    long = make_request(lm, draw_prompt(1, 100))
    scheduler.submit(long)
    lengths = []
    while not long.reply.ids:
        scheduler._token_seconds = 1e6  # beside which a pass takes no time
        before = len(short.reply.ids)
        scheduler.step()
        assert len(short.reply.ids) == before + 1
        lengths.append(long.row.length)
    assert lengths[:2] == [LEAST_CHUNK, 2 * LEAST_CHUNK]
    serve(scheduler)
    assert long.reply.ids == serve_alone(lm, long.reply.prompt_ids)


def test_several_prompts_are_read_in_a_step_as_far_as_others_bear(monkeypatch):
    lm = tiny_model()
    scheduler = make_scheduler(lm)
    scheduler.submit(make_request(lm, [5], max_new_tokens=100))
    scheduler.step()
    prompts = [make_request(lm, draw_prompt(seed, 30)) for seed in range(3)]
    for request in prompts:
        scheduler.submit(request)
    monkeypatch.setattr(scheduler, "_bearable_tokens", lambda: 48)
    scheduler.step()
    assert [r.row.length if r.row else 0 for r in prompts] == [30, 18, 0]
    serve(scheduler)
    assert [r.reply.ids for r in prompts] == [serve_alone(lm, r.reply.prompt_ids) for r in prompts]


def test_a_beginning_is_computed_once_for_one_owner():
    lm, ids = tiny_model(), draw_prompt(1, 200)
    scheduler = make_scheduler(lm)
    requests = [make_request(lm, [*ids, n]) for n in (2, 3)] + [make_request(lm, ids, "another")]
    for request in requests:
        scheduler.submit(request)
    serve(scheduler)
    assert [request.reused_tokens for request in requests] == [0, 3 * PAGE, 0]
    assert [request.computed_tokens for request in requests] == [201, 201 - 3 * PAGE, 200]
    assert requests[1].result().timings.reused_tokens == 3 * PAGE
    for request in requests:
        assert request.reply.ids == serve_alone(lm, request.reply.prompt_ids)


def test_beginnings_are_kept_only_if_told():
    lm, ids = tiny_model(), draw_prompt(1, 200)
    scheduler = make_scheduler(lm, keeps_prefixes=False)
    requests = [make_request(lm, ids) for _ in range(2)]
    for request in requests:
        scheduler.submit(request)
        serve(scheduler)
    assert [request.reused_tokens for request in requests] == [0, 0]


@pytest.mark.parametrize(
    ("name", "length", "reused"),
    [("longrope", 100, PAGE), ("longrope", 190, 2 * PAGE), ("dynamic", 190, 0)],
)
def test_a_beginning_is_found_by_those_who_rotate_alike(name, length, reused):
    """longrope turns more than 128 tokens by other frequencies, dynamic RoPE each number of tokens by its own."""
    lm = tiny_model(**ROTATIONS[name])
    scheduler = make_scheduler(lm, limit_pages=16)
    first = make_request(lm, draw_prompt(1, 100), max_new_tokens=95)  # past the boundary
    scheduler.submit(first)
    serve(scheduler)
    assert (
        first.reply.ids
        == lm.generate(first.reply.prompt_ids, max_new_tokens=95, ignore_eos=True).token_ids
    )
    second = make_request(lm, first.ids[:length])
    scheduler.submit(second)
    serve(scheduler)
    assert second.reused_tokens == reused
    assert second.reply.ids == serve_alone(lm, second.reply.prompt_ids)


def test_logits_that_are_no_numbers_end_one_reply_alone():
    lm = tiny_model()
    scheduler = make_scheduler(lm)
    bad, good = make_request(lm, [5, 6]), make_request(lm, [7, 8])
    for request in (bad, good):
        scheduler.submit(request)
    for _ in range(4):
        scheduler.step()
    layer = scheduler.pool.arrays(0)[1]
    layer[:, bad.row.tables[0][0], 0] = np.nan  # a value of its first token
    events = serve(scheduler)
    (failed,) = [event for event in events if event.error is not None]
    assert failed.request is bad
    assert "finite" in str(failed.error)
    assert good.reply.ids == serve_alone(lm, [7, 8])
    after = make_request(lm, [5, 6])  # its pages are no danger to whoever takes them next
    scheduler.submit(after)
    serve(scheduler)
    assert after.reply.ids == serve_alone(lm, [5, 6])


@pytest.mark.parametrize("limit_pages", [4, None])
def test_a_prompts_own_tokens_are_scored(limit_pages):
    """In chunks, next to other replies, after somebody else has read it, and after giving way."""
    lm, ids = tiny_model(), draw_prompt(1, 150)
    scheduler = make_scheduler(lm, limit_pages)
    requests = [make_request(lm, ids), make_request(lm, draw_prompt(2, 60), max_new_tokens=60)]
    requests += [make_request(lm, ids, scored_from=1, top_logprobs=3, max_new_tokens=30)]
    requests += [make_request(lm, ids[:1], scored_from=1)]
    for request in requests:
        scheduler.submit(request)
    serve(scheduler)
    assert (scheduler.preemptions > 0) == (limit_pages is not None)
    scored = requests[2].prompt_scores
    logits = lm.logits(ids).astype(np.float64)
    logprobs = logits - np.log(np.sum(np.exp(logits), -1, keepdims=True))
    expected = logprobs[np.arange(149), ids[1:]]
    # float32 logits of up to about 30, whose products are summed in another order.
    np.testing.assert_allclose(scored.logprobs, expected, atol=1e-4)
    best = np.argsort(-logprobs[:-1], axis=-1)[:, :3]
    assert [[token for token, _ in top] for top in scored.top] == best.tolist()
    assert requests[3].prompt_scores.logprobs == []
    for request in requests:
        options = {"max_new_tokens": request.reply.max_tokens}
        assert request.reply.ids == serve_alone(lm, request.reply.prompt_ids, **options)
    assert len(requests[2].result().top_logprobs) == len(requests[2].reply.ids)


@pytest.mark.parametrize("limit_pages", [4, None])
def test_the_end_of_a_prompt_is_scored_and_its_beginning_reused(limit_pages):
    lm, ids = tiny_model(), draw_prompt(1, 200)
    scheduler = make_scheduler(lm, limit_pages)
    whole = make_request(lm, ids, scored_from=1, top_logprobs=1, max_new_tokens=1)
    ends = [
        make_request(lm, ids, scored_from=n, top_logprobs=1, max_new_tokens=1)
        for n in (PAGE, PAGE + 1, 150, 199, 200)
    ]
    for request in (whole, *ends):
        scheduler.submit(request)
        serve(scheduler)
    assert [request.reused_tokens for request in ends] == [0, PAGE, 2 * PAGE, 3 * PAGE, 3 * PAGE]
    for request in ends:
        scores, n = request.prompt_scores, request.prompt_scores.begin
        # float32 logits of up to about 30, whose products are summed in another order.
        np.testing.assert_allclose(
            scores.logprobs, whole.prompt_scores.logprobs[n - 1 :], atol=1e-4
        )
        assert [top[0][0] for top in scores.top] == [
            top[0][0] for top in whole.prompt_scores.top[n - 1 :]
        ]
        assert request.reply.ids == whole.reply.ids


def test_logits_of_a_prompt_that_are_no_numbers_end_one_reply_alone():
    lm = tiny_model()
    lm.params["model.embed_tokens.weight"][9] = np.nan
    scheduler = make_scheduler(lm)
    bad = make_request(lm, [9, *draw_prompt(1, 150)], scored_from=1)
    good = make_request(lm, [5, 6])
    for request in (good, bad):
        scheduler.submit(request)
    errors = [(event.request, event.error) for event in serve(scheduler) if event.error]
    assert [request for request, _ in errors] == [bad]
    assert "finite" in str(errors[0][1])
    assert good.reply.finish_reason == "length"
    assert scheduler.pool.held_bytes == 0


def test_what_cannot_fit_is_refused():
    lm = tiny_model()
    scheduler = make_scheduler(lm, limit_pages=2)
    with pytest.raises(RequestError, match="must fit the cache"):
        scheduler.submit(make_request(lm, draw_prompt(1, 120)))
    assert scheduler.is_idle


@pytest.mark.parametrize("place", ["pages", "a pass"])
def test_an_allocation_that_fails_ends_what_it_was_for_alone(place, monkeypatch):
    lm = tiny_model()
    scheduler = make_scheduler(lm)
    good, bad = make_request(lm, [5, 6]), make_request(lm, draw_prompt(1, 150))
    scheduler.submit(good)
    scheduler.step()
    read = Engine.read

    def fail_to_grow(self, group, missing):
        raise OutOfMemoryError("no memory")

    def fail_to_read(self, pool, rows, ids, ends, **options):
        if len(ids[0]) > 1:
            raise OutOfMemoryError("no memory")
        return read(self, pool, rows, ids, ends, **options)

    scheduler.submit(bad)
    with monkeypatch.context() as patch:
        if place == "pages":
            patch.setattr(PagePool, "_grow", fail_to_grow)
        else:
            patch.setattr(Engine, "read", fail_to_read)
        events = scheduler.step()
    assert [event.request for event in events if event.error] == [bad]
    assert len(good.reply.ids) == 2  # its token of that step
    serve(scheduler)
    assert good.reply.ids == serve_alone(lm, [5, 6])
    assert scheduler.pool.held_bytes == 0

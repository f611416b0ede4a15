"""The thread that computes: whose turn it is, whom it has room for, and what becomes of the server when it ends."""

import asyncio
import time

import httpx
import pytest

from tests.generate.tiny import tiny_model
from tests.serve.client import app_of, chunks_of, client_of, is_at_rest, live, slowed, wait_until
from xplm.serve.guard import key_digest

COMPLETIONS = "/v1/completions"
GOOD = {"prompt": "hello", "max_tokens": 4, "temperature": 0}
KEYS = {"key_digests": frozenset(map(key_digest, ("alpha", "beta")))}
ALPHA, BETA = ({"authorization": f"Bearer {key}"} for key in ("alpha", "beta"))


@pytest.fixture(scope="module")
def lm():
    return tiny_model()


def test_a_thread_that_ends_is_told_to_everyone(lm, monkeypatch, caplog):
    with client_of(lm) as client:
        monkeypatch.setattr(client.app.state.serving.worker.scheduler, "step", fail)
        for _ in range(2):
            assert client.post(COMPLETIONS, json=GOOD).status_code == 503
        assert client.get("/health").status_code == 503
    assert "AssertionError: a bug" in caplog.text


def test_a_server_whose_thread_has_ended_ends(lm, monkeypatch):
    body = GOOD | {"stream": True}
    with live(lm) as (address, app), httpx.Client(base_url=address) as http:
        monkeypatch.setattr(app.state.serving.worker.scheduler, "step", fail)
        *_, last = chunks_of(http.post(COMPLETIONS, json=body).text)
        assert last["error"]["code"] == "unavailable"
        wait_until(lambda: not is_listening(address))


def fail():
    raise AssertionError("a bug")


def is_listening(address):
    try:
        return httpx.get(f"{address}/health").status_code > 0
    except httpx.TransportError:
        return False


def test_a_key_whose_queue_is_full_takes_nobody_elses_place(lm):
    many = GOOD | {"n": 5, "max_tokens": 40, "ignore_eos": True, "stream": True}
    served = live(lm, most_rows=1, most_waiting=4, **KEYS)
    with served as (address, app), slowed(0.01), httpx.Client(base_url=address) as http:
        with http.stream("POST", COMPLETIONS, json=many, headers=ALPHA) as response:
            lines = response.iter_lines()
            next(lines)
            assert http.post(COMPLETIONS, json=GOOD, headers=ALPHA).status_code == 429
            assert http.post(COMPLETIONS, json=GOOD, headers=BETA).status_code == 200
            scheduler = app.state.serving.worker.scheduler
            assert len(scheduler.waiting) + len(scheduler.admitted) >= 3  # of the other key
        wait_until(lambda: is_at_rest(app))


def test_work_of_owners_is_done_in_turns(lm):
    app, parts = app_of(lm), []

    def work(name):
        for _ in range(3):
            parts.append(name)
            time.sleep(0.01)
            yield

    async def run():
        worker = app.state.serving.worker
        async with app.router.lifespan_context(app):
            many = [worker.compute(work(n), "many") for n in range(5)]
            await asyncio.gather(*many, worker.compute(work("few"), "few"))

    asyncio.run(run())
    assert [part for part in parts if part != "few"] == [n for n in range(5) for _ in range(3)]
    assert max(at for at, part in enumerate(parts) if part == "few") <= 7

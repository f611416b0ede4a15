"""Requests that are wrong, clients that leave, and models that fail: nobody else notices."""

import asyncio
import json
import random

import httpx
import numpy as np
import pytest

from tests.generate.thinkers import TURNS, thinker, thinking_model
from tests.generate.tiny import tiny_model
from tests.serve.client import (
    NAME,
    app_of,
    call,
    chunks_of,
    client_of,
    is_at_rest,
    live,
    slowed,
    wait_until,
)
from xplm.errors import OutOfMemoryError
from xplm.generate.engine import Engine

HI = [{"role": "user", "content": "hi"}]
GOOD = {"prompt": "hello", "max_tokens": 4, "temperature": 0}
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@pytest.fixture(scope="module")
def lm():
    return tiny_model()


@pytest.fixture(scope="module")
def client(lm):
    with client_of(lm, body_bytes=20_000) as client:
        yield client


def refusal(response, status):
    """The error of a response, in OpenAI's form."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"prompt": "\\ud800"}',
        b'{"prompt": 1e999}',
        b'{"prompt": "a"} trailing',
        b'{"prompt": NaN}',
        b"[" * 15_000,
        b'{"a":' * 3_000 + b"1" + b"}" * 3_000,
    ],
)
def test_a_body_that_is_no_object_is_refused(client, body):
    for path in (COMPLETIONS, CHAT, "/tokenize", "/detokenize"):
        refusal(client.post(path, content=body), 400)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, None),
        ({"prompt": [[]]}, None),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [-1]}, None),
        ({"prompt": [10**30]}, None),
        ({"prompt": [258]}, None),
        ({"prompt": "a" * 5000}, None),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"stop": [""]}, None),
        ({"stop": 5}, "stop"),
        ({"stop": ["a"] * 33}, "stop"),
        ({"stop": "a" * 257}, "stop"),
        ({"stop_token_ids": [10**9]}, None),
        ({"logprobs": 50}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"five": 1}}, "logit_bias"),
        ({"logit_bias": {"258": 1}}, None),
        ({"logit_bias": {str(n): 1 for n in range(1025)}}, "logit_bias"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": "much"}, "frequency_penalty"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"stream_options": 5}, "stream_options"),
    ],
)
def test_a_field_out_of_range_is_named(client, fields, param):
    error = refusal(client.post(COMPLETIONS, json=GOOD | fields), 400)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param


def test_values_that_change_nothing_pass(client):
    neutral = {"best_of": 1, "presence_penalty": 0.0, "logit_bias": {}, "suffix": None, "top_k": -1}
    answer = client.post(COMPLETIONS, json=GOOD | neutral).json()
    assert answer["choices"] == client.post(COMPLETIONS, json=GOOD).json()["choices"]
    assert "warnings" not in answer


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"messages": []}, 400),
        ({"messages": "hi"}, 400),
        ({"messages": [5]}, 400),
        ({"messages": [{}]}, 400),
        ({"messages": [{"role": 5, "content": "a"}]}, 400),
        ({"messages": [{"role": "user", "content": 5}]}, 400),
        ({"messages": [{"role": "user", "content": [5]}]}, 400),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 501),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, 501),
        ({"tools": [{"type": "function"}]}, 400),
        ({"top_logprobs": 3}, 400),
        ({"top_logprobs": 50, "logprobs": True}, 400),
        ({"chat_template_kwargs": {"chat_template": 5}}, 400),
        ({"chat_template_kwargs": {"chat_template": "none"}}, 400),
    ],
)
def test_messages_that_are_wrong_are_refused(client, fields, status):
    refusal(client.post(CHAT, json={"messages": HI, "max_tokens": 2} | fields), status)


def test_another_model_is_not_found(client):
    assert refusal(client.post(COMPLETIONS, json=GOOD | {"model": "gpt"}), 404)["param"] == "model"
    assert client.post(COMPLETIONS, json=GOOD | {"model": NAME}).status_code == 200
    refusal(client.get("/v1/models/gpt"), 404)
    with client_of(tiny_model(), takes_any_model=True) as other:
        answer = other.post(COMPLETIONS, json=GOOD | {"model": "gpt"}).json()
        assert answer["model"] == NAME
    assert client.get(f"/v1/models/{NAME}").json()["id"] == NAME


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", COMPLETIONS, 405),
        ("POST", "/v1/responses", 501),
        ("POST", "/v1/images/generations", 501),
        ("POST", "/v1/audio/speech", 501),
    ],
)
def test_other_paths_say_so(client, method, path, status):
    refusal(client.request(method, path), status)


def test_a_body_that_is_too_large_is_refused(client):
    refusal(client.post(COMPLETIONS, json=GOOD | {"prompt": "a" * 30_000}), 413)
    refusal(client.post(COMPLETIONS, content=iter([b"x" * 9_000] * 4)), 413)


def draw_value(rng, depth=0):
    """Any JSON value."""
    kind = rng.randrange(9 if depth < 3 else 7)
    match kind:
        case 0:
            return None
        case 1:
            return rng.random() < 0.5
        case 2:
            return rng.choice([0, 1, -1, 2**31, 2**63, 2**64, -(2**70), 10**40])
        case 3:
            return rng.choice([0.0, -0.5, 1e-300, 1e300, 2.5])
        case 4 | 5:
            return rng.choice(["", "a", "\x00", "\ufdd0</s>", "é" * 40, "<s>", "{{ 1/0 }}"])
        case 6:
            return rng.choice(HI)
        case 7:
            return [draw_value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case _:
            keys = ["role", "content", "type", "text", "a", ""]
            return {rng.choice(keys): draw_value(rng, depth + 1) for _ in range(3)}


FIELDS = (
    "model", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop", "stop_token_ids",
    "ignore_eos", "seed", "n", "stream", "stream_options", "logprobs", "echo", "messages", "prompt", "tokens",
    "content", "chat_template_kwargs", "reasoning_effort", "tools", "add_special_tokens", "x",
)  # fmt: skip


@pytest.mark.parametrize("count", [150, pytest.param(5000, marks=pytest.mark.nightly)])
def test_random_bodies_never_fail_the_server(client, count):
    rng = random.Random(count)
    statuses = set()
    for _ in range(count):
        path = rng.choice([COMPLETIONS, CHAT, "/tokenize", "/detokenize"])
        body = {"prompt": "a", "messages": HI, "tokens": [5]}
        body |= {rng.choice(FIELDS): draw_value(rng) for _ in range(rng.randrange(1, 3))}
        body["max_tokens"] = 2
        content = json.dumps(body).encode()
        if rng.random() < 0.1:
            at = rng.randrange(len(content))
            content = content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
        response = client.post(path, content=content)
        assert response.status_code < 500 or response.status_code == 501, (path, content)
        statuses.add(response.status_code)
    assert {200, 400} <= statuses
    assert client.post(COMPLETIONS, json=GOOD).status_code == 200
    wait_until(lambda: is_at_rest(client.app))


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_is_served_no_more(lm, is_stream):
    body = {"prompt": "hello", "max_tokens": 200, "ignore_eos": True, "stream": is_stream}
    with live(lm) as (address, app), slowed(0.02):
        worker = app.state.serving.worker

        def n_admitted():
            return len(worker.scheduler.admitted)

        with httpx.Client(base_url=address) as http:
            if is_stream:
                with http.stream("POST", COMPLETIONS, json=body) as response:
                    lines = response.iter_lines()
                    next(lines)
                    wait_until(lambda: n_admitted() == 1)
            else:
                with pytest.raises(httpx.ReadTimeout):
                    http.post(COMPLETIONS, json=body, timeout=httpx.Timeout(5, read=0.3))
        wait_until(lambda: is_at_rest(app), seconds=2)  # all of it would take four
        assert (
            app.state.serving.metrics.registry.get_sample_value("xplm_replies_cancelled_total") == 1
        )


def test_a_reader_that_takes_nothing_is_left_and_holds_nobody_up(lm):
    app = app_of(lm, send_seconds=1.0)
    body = {"prompt": "hello", "max_tokens": 100, "ignore_eos": True, "stream": True}
    taken = []

    async def stuck(message):
        taken.append(message)
        if len(taken) > 2:
            await asyncio.Event().wait()

    async def read(message):
        whole.append(message)

    async def run():
        async with app.router.lifespan_context(app):
            slow = asyncio.create_task(call(app, COMPLETIONS, body, stuck))
            await call(app, COMPLETIONS, GOOD, read)
            await slow

    whole = []
    asyncio.run(run())
    assert whole[0]["status"] == 200
    assert len(taken) == 3
    assert is_at_rest(app)


def test_more_than_the_queue_holds_is_refused(lm):
    with client_of(lm, most_rows=2, most_waiting=1) as client:
        assert client.post(COMPLETIONS, json=GOOD | {"n": 3}).status_code == 200
        refusal(client.post(COMPLETIONS, json=GOOD | {"n": 4}), 400)
    with live(lm, most_rows=1, most_waiting=0) as (address, app), slowed(0.02):
        long = {"prompt": "hello", "max_tokens": 200, "ignore_eos": True, "stream": True}
        with httpx.Client(base_url=address) as http:
            with http.stream("POST", COMPLETIONS, json=long) as response:
                lines = response.iter_lines()  # dropped, it would close the response
                next(lines)
                refused = http.post(COMPLETIONS, json=GOOD)
                assert refusal(refused, 429)["code"] == "queue_full"
                assert refused.headers["retry-after"] == "1"
            wait_until(lambda: is_at_rest(app))
            assert http.post(COMPLETIONS, json=GOOD).status_code == 200


def test_a_reply_that_cannot_fit_the_cache_is_refused(lm):
    with client_of(lm, cache_bytes=2 * 64 * 256) as client:  # two pages
        body = {"prompt": list(range(2, 252)), "max_tokens": 5}
        assert "must fit the cache" in refusal(client.post(COMPLETIONS, json=body), 400)["message"]


@pytest.fixture
def poisoned(monkeypatch):
    """Rows whose first token is `Z` have logits that are no numbers."""
    read = Engine.read

    def poison(self, pool, rows, ids, ends, **options):
        logits = read(self, pool, rows, ids, ends, **options).copy()
        for n, row in enumerate(rows):
            if row.ids[0] == self_id:
                logits[n] = np.nan
        return logits

    self_id = tiny_model().tokenizer.encode("Z")[0]
    monkeypatch.setattr(Engine, "read", poison)


@pytest.mark.usefixtures("poisoned")
def test_logits_that_are_no_numbers_end_one_reply_alone(client):
    good = client.post(COMPLETIONS, json=GOOD).json()["choices"][0]["text"]
    error = refusal(client.post(COMPLETIONS, json=GOOD | {"prompt": "Z"}), 500)
    assert "finite" in error["message"]
    response = client.post(COMPLETIONS, json=GOOD | {"prompt": ["Z", "hello"], "stream": True})
    assert response.status_code == 200
    *_, last = chunks_of(response.text)
    assert "finite" in last["error"]["message"]
    assert client.post(COMPLETIONS, json=GOOD).json()["choices"][0]["text"] == good
    wait_until(lambda: is_at_rest(client.app))


def test_a_pass_without_memory_ends_its_requests_alone(client, monkeypatch):
    read = Engine.read

    def fail_once(self, *args, **options):
        monkeypatch.setattr(Engine, "read", read)
        raise OutOfMemoryError("no memory")

    monkeypatch.setattr(Engine, "read", fail_once)
    assert refusal(client.post(COMPLETIONS, json=GOOD), 503)["code"] == "out_of_memory"
    assert client.post(COMPLETIONS, json=GOOD).status_code == 200
    wait_until(lambda: is_at_rest(client.app))


def test_a_template_that_raises_refuses_its_request_alone():
    template = "{% if messages[0].content == 'bad' %}{{ raise_exception('never') }}{% endif %}ok"
    with client_of(thinking_model(thinker(template, TURNS))) as client:
        bad = {"messages": [{"role": "user", "content": "bad"}], "max_tokens": 2}
        assert "never" in refusal(client.post(CHAT, json=bad), 400)["message"]
        assert client.post(CHAT, json={"messages": HI, "max_tokens": 2}).status_code == 200


def test_a_model_without_a_template_completes_texts_alone(lm):
    other = tiny_model()
    other.tokenizer = type(lm.tokenizer)(lm.tokenizer.parts._replace(chat_template=None))
    with client_of(other) as client:
        assert "chat template" in refusal(client.post(CHAT, json={"messages": HI}), 400)["message"]
        assert client.post(COMPLETIONS, json=GOOD).status_code == 200

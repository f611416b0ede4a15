"""Many clients at once, over sockets: the same request gets the same bytes, whoever else is served."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest

from tests.generate.alone import make_model
from tests.serve.client import chunks_of, live

WORDS = "rain salt glass bread silk paper iron clocks maps ships music chess tea sugar roads walls"


def draw_bodies(count):
    """A path and a body for each client."""
    rng, words = random.Random(5), WORDS.split()
    found = []
    for n in range(count):
        text = " ".join(rng.choices(words, k=rng.randint(1, 30)))
        body = {"max_tokens": rng.randint(4, 40), "seed": n, "temperature": 0.8, "top_p": 0.95}
        body |= {"ignore_eos": n % 2 == 0, "stream": n % 3 == 0}
        if n % 2:
            found.append(("/v1/completions", body | {"prompt": text, "logprobs": 2}))
        else:
            said = {"messages": [{"role": "user", "content": text}]}
            found.append(
                ("/v1/chat/completions", body | said | {"logprobs": True, "top_logprobs": 2})
            )
    return found


def ask(address, request):
    """The choices of a response, or those of each chunk of a stream: all but its name and time."""
    path, body = request
    response = httpx.post(address + path, json=body, timeout=300)
    assert response.status_code == 200, response.text
    parts = chunks_of(response.text) if body["stream"] else [response.json()]
    return json.dumps([part["choices"] for part in parts]).encode()


@pytest.mark.parametrize(
    ("n_clients", "n_rounds"), [(8, 1), pytest.param(32, 3, marks=pytest.mark.nightly)]
)
def test_a_request_gets_the_same_bytes_whoever_else_is_served(n_clients, n_rounds):
    requests = draw_bodies(n_clients)
    with live(make_model("mixed"), cache_bytes=1 << 18) as (address, app):
        answer = partial(ask, address)
        alone = [answer(request) for request in requests]
        for seed in range(n_rounds):
            order = random.Random(seed).sample(range(n_clients), n_clients)
            with ThreadPoolExecutor(n_clients) as clients:
                found = list(clients.map(answer, [requests[n] for n in order]))
            assert found == [alone[n] for n in order]
        assert app.state.serving.worker.scheduler.pool.held_bytes == 0

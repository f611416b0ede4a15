"""Texts continued over HTTP are those that `lm.generate` gives."""

import asyncio
import random

import httpx
import numpy as np
import pytest

from tests.serve.client import NAME, chunks_of, is_at_rest, live

SAMPLED = {"temperature": 1.0, "top_p": 0.9, "max_tokens": 12, "ignore_eos": True}


def post(client, **body):
    response = client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_a_completion_is_what_generate_gives(lm, client):
    answer = post(client, prompt="hello", max_tokens=8, temperature=0, logprobs=0)
    expected = lm.generate("hello", max_new_tokens=8)
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == (expected.text, expected.finish_reason)
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(expected.logprobs, abs=1e-5)
    assert len(choice["logprobs"]["tokens"]) == len(expected.token_ids)
    counts = answer["usage"]
    assert (counts["prompt_tokens"], counts["completion_tokens"]) == (5, len(expected.token_ids))
    assert counts["total_tokens"] == 5 + len(expected.token_ids)
    assert (answer["object"], answer["model"], answer["id"][:5]) == (
        "text_completion",
        NAME,
        "cmpl-",
    )


def test_prompts_are_texts_or_ids_one_or_several(lm, client):
    ids = lm.tokenizer.encode("hello")
    options = {"max_tokens": 6, "temperature": 0}
    alone = post(client, prompt="hello", **options)["choices"][0]["text"]
    other = post(client, prompt="good", **options)["choices"][0]["text"]
    for prompt in (ids, [ids], ["hello"]):
        (choice,) = post(client, prompt=prompt, **options)["choices"]
        assert choice["text"] == alone
    choices = post(client, prompt=["hello", "good"], n=2, **options)["choices"]
    assert [choice["text"] for choice in choices] == [alone, alone, other, other]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]


def test_choices_have_seeds_that_follow_each_other(lm, client):
    choices = post(client, prompt="hello", n=3, seed=7, **SAMPLED)["choices"]
    options = {"max_new_tokens": 12, "temperature": 1.0, "top_p": 0.9, "ignore_eos": True}
    alone = [lm.generate("hello", seed=7 + n, **options).text for n in range(3)]
    assert [choice["text"] for choice in choices] == alone
    assert len(set(alone)) > 1


def test_a_drawn_seed_is_named_and_repeats_the_reply(client):
    first = post(client, prompt="hello", **SAMPLED)
    again = post(client, prompt="hello", seed=first["seed"], **SAMPLED)
    assert again["choices"] == first["choices"]
    assert post(client, prompt="hello", **SAMPLED)["seed"] != first["seed"]


def test_a_stream_is_the_whole_in_parts(client):
    body = {"prompt": ["hello", "good"], "seed": 3, "echo": True, **SAMPLED}
    whole = post(client, **body)
    told = {"stream": True, "stream_options": {"include_usage": True}}
    response = client.post("/v1/completions", json=body | told)
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, last = chunks_of(response.text)
    for index in range(2):
        parts = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
        assert "".join(part["text"] for part in parts) == whole["choices"][index]["text"]
        reasons = [part["finish_reason"] for part in parts if part["finish_reason"]]
        assert reasons == [whole["choices"][index]["finish_reason"]]
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert len({chunk["id"] for chunk in [*chunks, last]}) == 1


def test_a_stream_without_usage_has_none(client):
    body = {"prompt": "hello", "stream": True, **SAMPLED}
    chunks = chunks_of(client.post("/v1/completions", json=body).text)
    assert all("usage" not in chunk for chunk in chunks)
    assert all(chunk["choices"] for chunk in chunks)


def test_streamed_logprobs_are_those_of_the_whole(client):
    body = {"prompt": "hello", "seed": 3, "logprobs": 0, **SAMPLED}
    (choice,) = post(client, **body)["choices"]
    chunks = chunks_of(client.post("/v1/completions", json=body | {"stream": True}).text)
    found = [c["logprobs"] for chunk in chunks for c in chunk["choices"] if c["logprobs"]]
    for name in ("tokens", "token_logprobs", "text_offset"):
        joined = [item for part in found for item in part[name]]
        if name == "token_logprobs":
            assert joined == pytest.approx(choice["logprobs"][name], abs=1e-6)
        else:
            assert joined == choice["logprobs"][name]


def test_the_likeliest_tokens_are_named(lm, client):
    options = {"prompt": "hello", "max_tokens": 6, "temperature": 0, "logprobs": 3}
    (choice,) = post(client, **options)["choices"]
    expected = lm.generate("hello", max_new_tokens=6, top_logprobs=3)
    found = choice["logprobs"]["top_logprobs"]
    for top, ranked in zip(found, expected.top_logprobs, strict=True):
        assert max(top.values()) == pytest.approx(ranked[0][1], abs=1e-5)
        assert len(top) <= 3  # tokens with one text are one


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_tokens_of_an_echoed_prompt_have_logprobs(lm, client, is_stream):
    """As an evaluation of likelihoods reads them: one token is generated, and left out at the end."""
    body = {"prompt": ["hello", "good day"], "max_tokens": 1, "temperature": 0}
    body |= {"echo": True, "logprobs": 1, "stream": is_stream}
    response = client.post("/v1/completions", json=body)
    chunks = chunks_of(response.text) if is_stream else [response.json()]
    for index, prompt in enumerate(body["prompt"]):
        parts = [
            c["logprobs"]
            for x in chunks
            for c in x["choices"]
            if c["index"] == index and c["logprobs"]
        ]
        ids = lm.tokenizer.encode(prompt)
        table = lm.logits(ids).astype(np.float64)
        normalisers = np.log(np.exp(table).sum(-1))
        expected = [table[n, token] - normalisers[n] for n, token in enumerate(ids[1:])]
        found = [item for part in parts for item in part["token_logprobs"]]
        assert found[0] is None
        assert found[1:-1] == pytest.approx(expected, abs=1e-5)
        tops = [item for part in parts for item in part["top_logprobs"]]
        likeliest = (table.max(-1) - normalisers).tolist()
        assert [max(top.values()) for top in tops[1:]] == pytest.approx(likeliest, abs=1e-5)
        text = "".join(
            c.get("text", "") for x in chunks for c in x["choices"] if c["index"] == index
        )
        assert text.startswith(prompt)


def test_biases_and_penalties_reach_the_choice(lm, client):
    token = lm.tokenizer.encode("Q")[0]
    options = {"prompt": "hello", "max_tokens": 5, "temperature": 0}
    assert post(client, logit_bias={str(token): 100}, **options)["choices"][0]["text"] == "Q" * 5
    penalties = {"presence_penalty": 2.0, "frequency_penalty": 2.0}
    expected = lm.generate("hello", max_new_tokens=5, **penalties).text
    assert post(client, **penalties, **options)["choices"][0]["text"] == expected


def test_stop_texts_end_a_reply(lm, client):
    whole = lm.generate("hello", max_new_tokens=12, ignore_eos=True)
    stop = whole.text[3]
    body = {"prompt": "hello", "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    (choice,) = post(client, stop=[stop], **body)["choices"]
    assert choice["text"] == whole.text[: whole.text.index(stop)]
    assert choice["finish_reason"] == "stop"


def test_a_beginning_is_reused_and_counted(client):
    body = {"prompt": list(range(2, 152)), "max_tokens": 1, "temperature": 0}
    post(client, **body)
    again = post(client, **body)
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 128
    assert again["timings"]["cache_n"] == 128
    assert again["timings"]["prompt_n"] == 150 - 128


def test_unknown_fields_are_named(client):
    answer = post(client, prompt="hello", frobnicate=1, user="me", **SAMPLED)
    assert answer["warnings"] == ['unknown field "frobnicate" is ignored']
    body = {"prompt": "hello", "frobnicate": 1, "stream": True, **SAMPLED}
    first, *_ = chunks_of(client.post("/v1/completions", json=body).text)
    assert first["warnings"] == answer["warnings"]


def test_32_clients_in_random_order_get_what_each_gets_alone(lm):
    """Three rounds over sockets, each in another order, streams and wholes mixed."""
    prompts = ["hello" + "x" * (7 * n % 90) for n in range(32)]
    expected = [
        lm.generate(p, max_new_tokens=12, temperature=1.0, top_p=0.9, ignore_eos=True, seed=n).text
        for n, p in enumerate(prompts)
    ]
    rng = random.Random(5)

    async def ask(http, n, found):
        body = {"prompt": prompts[n], "seed": n, **SAMPLED, "stream": rng.random() < 0.5}
        response = await http.post("/v1/completions", json=body)
        chunks = chunks_of(response.text) if body["stream"] else [response.json()]
        found[n] = "".join(c["text"] for chunk in chunks for c in chunk["choices"])

    async def rounds(address):
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=address, limits=limits, timeout=60) as http:
            for _ in range(3):
                found = {}
                async with asyncio.TaskGroup() as group:
                    for n in rng.sample(range(32), 32):
                        group.create_task(ask(http, n, found))
                assert [found[n] for n in range(32)] == expected

    with live(lm) as (address, app):
        asyncio.run(rounds(address))
        assert is_at_rest(app)

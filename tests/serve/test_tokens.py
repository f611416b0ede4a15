"""Texts to token ids and back over HTTP."""

import asyncio

import pytest

from xplm.generate.engine import Engine
from xplm.serve.logprobs import TokenTexts


def test_ids_are_the_tokenizers_and_back(lm, client):
    text = "héllo 🌧"
    found = client.post("/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    ids = lm.tokenizer.encode(text)
    assert (found["tokens"], found["count"]) == (ids, len(ids))
    assert found["max_model_len"] == lm.engine.context
    assert len(found["token_strs"]) == len(ids)
    assert client.post("/detokenize", json={"tokens": ids}).json() == {
        "prompt": text,
        "content": text,
    }


def test_pieces_are_texts_or_bytes(client):
    found = client.post("/tokenize", json={"content": "é!", "with_pieces": True}).json()["tokens"]
    assert [entry["piece"] for entry in found] == [[0xC3], [0xA9], "!"]


def test_a_text_may_be_longer_than_the_context(lm, client):
    text = "a" * (3 * lm.engine.context)
    assert client.post("/tokenize", json={"prompt": text}).json()["count"] == len(text)


def test_the_tokenizer_is_described(lm, client):
    found = client.get("/tokenizer_info").json()
    assert (found["bos_token"], found["eos_token"]) == ("<s>", "</s>")
    assert found["chat_template"] == lm.tokenizer.chat_template


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"prompt": 5}),
        ("/tokenize", {"messages": []}),
        ("/detokenize", {}),
        ("/detokenize", {"tokens": ["a"]}),
        ("/detokenize", {"tokens": [258]}),
        ("/detokenize", {"tokens": [-1]}),
    ],
)
def test_what_is_wrong_is_refused(client, path, body):
    assert client.post(path, json=body).status_code == 400


def test_the_server_counts_what_it_did(client):
    body = {"prompt": "hello", "max_tokens": 3, "ignore_eos": True}
    before = counted(client)
    client.post("/v1/completions", json=body)
    client.post("/completions", json={})
    after = counted(client)
    assert after["xplm_generated_tokens_total"] - before["xplm_generated_tokens_total"] == 3
    assert after["xplm_prompt_tokens_total"] - before["xplm_prompt_tokens_total"] == 5
    assert after['xplm_responses_total{endpoint="completions",status="200"}'] == 1
    assert after['xplm_responses_total{endpoint="completions",status="400"}'] == 1
    assert after["xplm_requests_running"] == 0


def counted(client):
    lines = client.get("/metrics").text.splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
    }


def test_what_grows_with_a_text_holds_up_no_other_request(client, monkeypatch):
    seen = []

    def watch(owner, name):
        function = getattr(owner, name)

        def watched(*given, **options):
            seen.append((name, is_in_loop()))
            return function(*given, **options)

        monkeypatch.setattr(owner, name, watched)

    watch(TokenTexts, "text")
    watch(Engine, "require_known")
    body = {"prompt": "a", "return_token_strs": True, "with_pieces": True}
    assert client.post("/tokenize", json=body).status_code == 200
    assert client.post("/detokenize", json={"tokens": [5]}).status_code == 200
    assert set(seen) == {("text", False), ("require_known", False)}


def is_in_loop():
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

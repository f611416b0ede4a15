"""Texts as vectors over HTTP."""

import base64

import numpy as np
import pytest

PATH = "/v1/embeddings"


def test_vectors_are_those_of_embed_at_length_1(lm, client):
    texts = ["hello", "a longer text " * 12]
    expected = lm.embed(texts)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    answer = client.post(PATH, json={"input": texts}).json()
    found = [entry["embedding"] for entry in answer["data"]]
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=1e-6
    )  # a few roundings of numbers below 1
    assert [entry["index"] for entry in answer["data"]] == [0, 1]
    n_tokens = sum(len(lm.tokenizer.encode(text)) for text in texts)
    assert answer["usage"] == {"prompt_tokens": n_tokens, "total_tokens": n_tokens}

    body = {"input": texts, "encoding_format": "base64"}
    packed = [entry["embedding"] for entry in client.post(PATH, json=body).json()["data"]]
    for text, vector in zip(packed, found, strict=True):
        np.testing.assert_array_equal(
            np.frombuffer(base64.b64decode(text), "<f4"), np.asarray(vector, np.float32)
        )


def test_ids_stand_for_their_text(lm, client):
    ids = lm.tokenizer.encode("hello")
    by_text = client.post(PATH, json={"input": "hello"}).json()["data"]
    assert client.post(PATH, json={"input": ids}).json()["data"] == by_text


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": []},
        {"input": ""},
        {"input": 5},
        {"input": [[]]},
        {"input": "a" * 3000},
        {"input": "a", "encoding_format": "int8"},
        {"input": "a", "dimensions": 4},
        {"input": [999]},
    ],
)
def test_what_is_wrong_is_refused(client, body):
    response = client.post(PATH, json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"]

"""Requests whose replies follow a grammar: compiled once, and never in the way of others."""

import threading
import time
from itertools import pairwise

import httpx
import pytest

from tests.generate.tiny import tiny_model
from tests.serve.client import client_of, live
from xplm.serve.grammar import Grammars

SCHEMA = {"type": "json_schema", "json_schema": {"schema": {"enum": ["red", "green", "blue"]}}}
DRAWN = {"temperature": 1.0, "max_tokens": 12, "response_format": SCHEMA}
PATHS = [
    ("/v1/completions", {"prompt": "a"}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
]


@pytest.fixture(scope="module")
def lm():
    return tiny_model()


@pytest.fixture
def compiled(monkeypatch):
    """Seconds at which each grammar that is compiled begins and ends; each takes a while."""
    lark, found = Grammars.lark, []

    def slow(self, *args):
        begun = time.monotonic()
        time.sleep(0.05)
        constraint = lark(self, *args)
        found.append((begun, time.monotonic()))
        return constraint

    monkeypatch.setattr(Grammars, "lark", slow)
    return found


@pytest.mark.parametrize(("path", "body"), PATHS)
def test_a_grammar_is_compiled_once_for_all_choices(lm, compiled, path, body):
    with client_of(lm) as client:
        together = client.post(path, json=body | DRAWN | {"n": 4, "seed": 5})
        assert len(compiled) == 1
        texts = [choice.get("text", choice.get("message")) for choice in together.json()["choices"]]
        for choice, text in enumerate(texts):
            alone = client.post(path, json=body | DRAWN | {"seed": 5 + choice}).json()["choices"][0]
            assert alone.get("text", alone.get("message")) == text


def test_grammars_of_one_owner_are_compiled_one_after_another(lm, compiled):
    path, body = PATHS[0]
    with live(lm) as (address, _):

        def ask():
            answer = httpx.post(f"{address}{path}", json=body | DRAWN | {"seed": 1}, timeout=60)
            assert answer.status_code == 200

        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(compiled) == 5
    spans = sorted(compiled)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))

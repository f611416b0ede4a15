"""OpenAI's own client, over a socket; and the page about the server."""

import re

import pytest

from tests.generate.tiny import tiny_model
from tests.paths import ROOT
from tests.serve.client import NAME, app_of, live
from xplm.serve.guard import key_digest
from xplm.serve.listen import MOST_CONNECTIONS
from xplm.serve.settings import Settings
from xplm.serve.store import MOST_BYTES

import openai  # isort: skip, after what skips without it

PAGE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def lm():
    return tiny_model()


@pytest.fixture(scope="module")
def client(lm):
    keys = frozenset({key_digest("secret")})
    with (
        live(lm, key_digests=keys) as (address, _),
        openai.OpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0) as client,
    ):
        yield client


def test_a_chat(lm, client):
    expected = lm.chat().send("hi", max_new_tokens=9)
    answer = client.chat.completions.create(
        model=NAME, messages=HI, max_tokens=9, temperature=0, logprobs=True
    )
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", expected.text)
    assert choice.finish_reason == expected.finish_reason
    assert len(choice.logprobs.content) == len(expected.token_ids)
    assert answer.usage.completion_tokens == len(expected.token_ids)


def test_a_chat_in_a_stream(lm, client):
    expected = lm.chat().send("hi", max_new_tokens=9)
    *chunks, last = client.chat.completions.create(
        model=NAME,
        messages=HI,
        max_tokens=9,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == expected.text
    assert last.usage.completion_tokens == len(expected.token_ids)


def test_a_completion(lm, client):
    expected = lm.generate("hello", max_new_tokens=9)
    answer = client.completions.create(
        model=NAME, prompt="hello", max_tokens=9, temperature=0, logprobs=0, echo=False
    )
    assert answer.choices[0].text == expected.text
    assert answer.choices[0].logprobs.token_logprobs == pytest.approx(expected.logprobs, abs=1e-5)


def test_the_models(client):
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "xplm"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt")


def test_refusals_are_the_clients_own_errors(client):
    with pytest.raises(openai.BadRequestError, match="top_p"):
        client.chat.completions.create(model=NAME, messages=HI, top_p=5)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt", messages=HI)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").chat.completions.create(model=NAME, messages=HI)


def test_the_example_of_the_page_runs(lm, capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    name = "smollm2-135m-instruct:q4_1"
    with live(lm, model=name) as (address, _):
        exec(code.replace("http://localhost:8000", address), {})
    asked = lm.chat()
    n_prompt = len(asked.prompt_ids("What is rain?"))
    expected = asked.send(
        "What is rain?", temperature=1.0, seed=1, max_new_tokens=lm.engine.context - n_prompt
    )
    assert capsys.readouterr().out == expected.text


def test_the_paths_of_the_page_are_those_that_are_there(lm):
    named = set(re.findall(r"`(?:GET|POST|DELETE|PATCH) (/[^`]*)`", PAGE))
    routes = {route.path.replace(":path", "") for route in app_of(lm).routes}
    others = {path.removeprefix("/v1") for path in routes} - {"/health"}
    others = (others & routes) - named | {"/v1/health"}
    lacking = {path for path in routes if re.match("/v1/(responses|images|audio|files)", path)}
    lacking |= {"/v1/batches", "/v1/moderations", "/v1/fine_tuning/{rest}"}
    assert named == routes - others - lacking


def test_the_limits_of_the_page_are_the_defaults():
    settings = Settings(model=NAME)
    assert f"`--max-rows` ({settings.most_rows})" in PAGE
    assert f"and {settings.most_waiting} more wait" in PAGE
    assert f"{settings.body_bytes >> 20} MiB" in PAGE
    assert f"{settings.bodies_bytes >> 20} MiB" in PAGE
    assert f"{MOST_CONNECTIONS} connections" in PAGE
    assert f"{settings.owner_sessions_bytes >> 20} MiB, those of all keys 1 GiB" in PAGE
    assert settings.sessions_bytes == 1 << 30
    assert f"one of them {MOST_BYTES >> 20} MiB" in PAGE

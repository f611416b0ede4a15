"""Every field of a request through OpenAI's own client, which checks what comes back against its own types."""

import json
from typing import ClassVar, Literal

import numpy as np
import pytest

from tests.generate.tiny import tiny_model
from tests.serve.client import NAME, live, saying
from tests.serve.test_tools import CALL, DIGIT, HI, TOOLS, calling_model
from tests.text.callers import CALLERS

import openai  # isort: skip, after what skips without it

THINKER = "JSON in tags, tokens of the text"
BOTH = f"{CALL}\n{CALL.replace('6', '5').replace('roll', 'count')}"
STRICT = [{**tool, "function": {**tool["function"], "strict": True}} for tool in TOOLS]


class Digit(openai.BaseModel):
    """What answers have to be."""

    model_config: ClassVar = {"extra": "forbid"}
    n: Literal[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]


def client_at(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def lm():
    return tiny_model()


@pytest.fixture(scope="module")
def client(lm):
    with live(lm) as (address, _), client_at(address) as client:
        yield client


@pytest.fixture(scope="module")
def caller():
    """A client of a model that thinks, and calls tools."""
    with live(calling_model(THINKER)) as (address, _), client_at(address) as client:
        yield client


def ask(client, **fields):
    given = {"model": NAME, "messages": HI, "max_tokens": 9, "seed": 1} | fields
    return client.chat.completions.create(**given)


def say(client, text, **fields):
    with saying(CALLERS[THINKER], text):
        answer = ask(client, max_tokens=300, temperature=0, **fields)
        return list(answer) if fields.get("stream") else answer


def test_thoughts_and_parallel_calls(caller):
    (choice,) = say(caller, f"<think>\nRoll.\n</think>\n\nWell.\n{BOTH}", tools=TOOLS).choices
    assert choice.message.reasoning_content == "Roll."
    assert choice.message.content == "Well."
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls
    assert [call.function.name for call in calls] == ["roll", "count"]
    assert [json.loads(call.function.arguments) for call in calls] == [{"n": 6}, {"n": 5}]
    assert len({call.id for call in calls}) == 2
    assert {call.type for call in calls} == {"function"}


def test_the_same_in_a_stream_with_logprobs(caller):
    text = f"<think>\nRoll.\n</think>\n\nWell.\n{BOTH}"
    chunks = say(
        caller,
        text,
        tools=TOOLS,
        stream=True,
        logprobs=True,
        top_logprobs=2,
        stream_options={"include_usage": True},
    )
    *chunks, last = chunks
    choices = [choice for chunk in chunks for choice in chunk.choices]
    said = {"content": "", "reasoning_content": ""}
    calls = {}
    for choice in choices:
        for name in said:
            said[name] += getattr(choice.delta, name, None) or ""
        for call in choice.delta.tool_calls or []:
            name, arguments = calls.get(call.index, ("", ""))
            calls[call.index] = (
                name + (call.function.name or ""),
                arguments + call.function.arguments,
            )
    assert said == {"content": "Well.", "reasoning_content": "Roll."}
    assert [(name, json.loads(given)) for name, given in calls.values()] == [
        ("roll", {"n": 6}),
        ("count", {"n": 5}),
    ]
    assert choices[-1].finish_reason == "tool_calls"
    tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
    assert b"".join(bytes(token.bytes) for token in tokens).decode().startswith(text)
    assert len(tokens) == last.usage.completion_tokens
    assert all(len(token.top_logprobs) == 2 for token in tokens)


def test_logprobs_with_tools_are_of_all_tokens(caller):
    answer = say(caller, CALL, tools=TOOLS, logprobs=True)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens
    assert "".join(token.token for token in tokens).startswith(CALL)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "roll"}}])
def test_a_call_that_is_asked_for(caller, choice):
    fields = {"tools": STRICT, "tool_choice": choice, "parallel_tool_calls": False}
    (found,) = ask(caller, max_tokens=400, **fields).choices
    (call,) = found.message.tool_calls
    assert call.function.name in ("roll", "count") if choice == "required" else ("roll",)
    assert Digit.model_validate_json(call.function.arguments)


def test_the_clients_own_collector_of_streams(caller):
    with (
        saying(CALLERS[THINKER], f"Well.\n{CALL}"),
        caller.chat.completions.stream(
            model=NAME, messages=HI, tools=STRICT, temperature=0, max_tokens=300
        ) as stream,
    ):
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
    assert [(event.name, json.loads(event.arguments)) for event in done] == [("roll", {"n": 6})]
    message = stream.get_final_completion().choices[0].message
    assert message.content.strip() == "Well."
    assert message.tool_calls[0].function.parsed_arguments == {"n": 6}


def test_answers_are_parsed_into_a_type(client):
    given = {"model": NAME, "messages": HI, "max_tokens": 150, "seed": 1, "n": 2}
    answer = client.chat.completions.parse(response_format=Digit, **given)
    assert all(isinstance(choice.message.parsed, Digit) for choice in answer.choices)


def test_json_of_any_object(client):
    (choice,) = ask(client, max_tokens=200, response_format={"type": "json_object"}).choices
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)
    assert choice.message.content.lstrip().startswith("{")


def test_choices_have_seeds_that_follow_each_other(client):
    three = ask(client, n=3, seed=5, temperature=1)
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    for choice in three.choices:
        (alone,) = ask(client, seed=5 + choice.index, temperature=1).choices
        assert alone.message.content == choice.message.content
    assert three.usage.prompt_tokens == ask(client).usage.prompt_tokens
    assert three.seed == 5


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 3, "temperature": 1, "max_tokens": 20},
        {"n": 2, "temperature": 1, "max_tokens": 60, "stop": ["a", "e", "r"]},
        {"logit_bias": {"70": 20, "1": -100}, "temperature": 1, "presence_penalty": 1.5},
        {"logprobs": True, "top_logprobs": 3, "temperature": 1, "max_tokens": 20},
    ],
)
def test_a_stream_has_what_the_whole_has(client, fields):
    whole = ask(client, **fields)
    streamed = {}
    for chunk in ask(client, stream=True, **fields):
        for choice in chunk.choices:
            said = streamed.setdefault(choice.index, ["", None, []])
            said[0] += choice.delta.content or ""
            said[1] = choice.finish_reason or said[1]
            said[2] += choice.logprobs.content if choice.logprobs else []
    expected = {
        choice.index: [
            choice.message.content,
            choice.finish_reason,
            choice.logprobs.content if choice.logprobs else [],
        ]
        for choice in whole.choices
    }
    assert streamed == expected


def test_stop_ends_a_reply(client):
    whole = ask(client, temperature=0, max_tokens=30).choices[0].message.content
    cut = whole[10:12]
    (choice,) = ask(client, temperature=0, max_tokens=30, stop=[cut, "never"]).choices
    assert choice.message.content == whole[: whole.index(cut)]
    assert choice.finish_reason == "stop"


def test_logit_bias_chooses_a_token(client):
    token = 2 + ord("A")
    (choice,) = ask(client, temperature=0, logit_bias={str(token): 100}, logprobs=True).choices
    assert len({found.token for found in choice.logprobs.content}) == 1
    (other,) = ask(client, temperature=0, logprobs=True).choices
    assert choice.message.content != other.message.content


def test_the_fields_beyond_openais(client):
    more = {"top_k": 1, "min_p": 0.1, "repetition_penalty": 1.2, "ignore_eos": True}
    found = ask(client, temperature=1, presence_penalty=0.5, frequency_penalty=0.5, extra_body=more)
    assert found.usage.completion_tokens == 9
    assert "warnings" not in found.model_extra
    odd = ask(client, extra_body={"chat_template_kwargs": {"colour": 1}, "nonsense": 1})
    assert len(odd.warnings) == 2


def test_a_prompt_is_scored(client):
    prompt = [2, 9, 17, 40]
    found = client.completions.create(
        model=NAME, prompt=prompt, echo=True, logprobs=1, max_tokens=1, temperature=0
    )
    scores = found.choices[0].logprobs.token_logprobs
    assert scores[0] is None
    assert all(score <= 0 for score in scores[1:])
    assert len(scores) == len(prompt) + 1
    chunks = client.completions.create(
        model=NAME, prompt=prompt, echo=True, logprobs=1, max_tokens=1, temperature=0, stream=True
    )
    streamed = [c.logprobs.token_logprobs for chunk in chunks for c in chunk.choices if c.logprobs]
    assert [score for part in streamed for score in part] == scores


def test_embeddings(lm, client):
    texts = ["hello", "good day"]
    found = client.embeddings.create(model=NAME, input=texts)  # base64, by the client's default
    given = np.array([item.embedding for item in found.data])
    expected = np.asarray(lm.embed(texts))
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-6)
    as_floats = client.embeddings.create(model=NAME, input=texts, encoding_format="float")
    np.testing.assert_array_equal(given, [item.embedding for item in as_floats.data])
    assert found.usage.total_tokens == sum(map(len, texts))


def test_what_is_not_served_is_said(client):
    with pytest.raises(openai.APIStatusError) as refused:
        client.responses.create(model=NAME, input="hi")
    assert refused.value.status_code == 501
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(openai.APIStatusError) as refused:
        ask(client, messages=[{"role": "user", "content": [picture]}])
    assert refused.value.status_code == 501
    for fields in ({"n": 0}, {"logit_bias": {"x": 1}}, {"top_logprobs": 3}, {"seed": "x"}):
        with pytest.raises(openai.BadRequestError) as refused:
            ask(client, **fields)
        assert refused.value.type == "invalid_request_error"
        assert refused.value.param == next(iter(fields))
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "hiccup"}}}
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, response_format=form)
    assert refused.value.param == "response_format"


@pytest.mark.parametrize("name", ["grammar", "json_schema"])
def test_forms_in_llama_cpps_fields_are_refused_not_ignored(client, name):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, extra_body={name: {"type": "object"}})
    assert (refused.value.param, refused.value.code) == (name, "unsupported_parameter")


def test_an_error_in_the_middle_of_a_stream_is_the_clients(client):
    endless = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}
    with pytest.raises(openai.APIError, match="no text meets"):
        list(ask(client, response_format=endless, stream=True))


def test_a_schema_is_followed_in_a_stream(client):
    form = {"type": "json_schema", "json_schema": {"name": "digit", "schema": DIGIT}}
    chunks = ask(client, max_tokens=150, response_format=form, stream=True, temperature=1)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert Digit.model_validate_json(text)

"""Tools, and JSON of a schema, over HTTP."""

import json

import pytest

from tests.generate.tiny import tiny_model
from tests.serve.client import chunks_of, client_of, is_at_rest, saying, wait_until
from tests.text.callers import CALLERS

HI = [{"role": "user", "content": "hi"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
DIGIT = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["n"],
    "additionalProperties": False,
}


def tool(name):
    return {"type": "function", "function": {"name": name, "parameters": DIGIT}}


TOOLS = [tool("count"), tool("roll")]
CALL = '<tool_call>\n{"name": "roll", "arguments": {"n": 6}}\n</tool_call>'
CALL_FORM = "JSON in tags, no tokens"


def calling_model(form):
    """A tiny model whose template has calls of a form; a token a byte, so that tools take hundreds."""
    lm = tiny_model(vocab_size=300, max_position_embeddings=1024)
    lm.tokenizer = CALLERS[form]
    return lm


@pytest.fixture(scope="module")
def caller():
    """A client of a model whose template has calls between tags."""
    with client_of(calling_model(CALL_FORM)) as client:
        yield client


@pytest.fixture(scope="module")
def client():
    with client_of(tiny_model()) as client:
        yield client


def post(client, path=CHAT, status=200, **body):
    response = client.post(path, json={"messages": HI, "max_tokens": 150} | body)
    assert response.status_code == status, response.text
    return response.json()


def test_calls_come_apart_whole_and_in_a_stream(caller):
    body = {"messages": HI, "tools": TOOLS, "temperature": 0, "max_tokens": 200}
    with saying(CALLERS[CALL_FORM], f"Well.\n{CALL}\n{CALL.replace('6', '5')}"):
        (choice,) = post(caller, **body)["choices"]
    message = choice["message"]
    assert (message["content"], choice["finish_reason"]) == ("Well.", "tool_calls")
    functions = [call["function"] for call in message["tool_calls"]]
    assert [function["name"] for function in functions] == ["roll", "roll"]
    assert [json.loads(function["arguments"])["n"] for function in functions] == [6, 5]

    with saying(CALLERS[CALL_FORM], CALL):
        chunks = chunks_of(caller.post(CHAT, json=body | {"stream": True}).text)
    deltas = [c["delta"] for chunk in chunks for c in chunk["choices"]]
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert calls[0]["function"]["name"] == "roll"
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"n": 6}
    assert not any(delta.get("content") for delta in deltas)
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_without_tools_a_call_is_text(caller):
    for told in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        with saying(CALLERS[CALL_FORM], CALL):
            (choice,) = post(caller, temperature=0, **told)["choices"]
        assert choice["message"]["content"] == CALL
        assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"count", "roll"}),
        ({"type": "function", "function": {"name": "roll"}}, {"roll"}),
    ],
)
def test_a_call_that_is_asked_for_is_made(caller, choice, names):
    for seed in range(4):
        body = {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False}
        (found,) = post(caller, seed=seed, temperature=1, **body)["choices"]
        (call,) = found["message"]["tool_calls"]
        assert call["function"]["name"] in names
        assert 0 <= json.loads(call["function"]["arguments"])["n"] <= 9
        assert found["finish_reason"] == "tool_calls"


def test_tools_calls_and_results_reach_the_template(caller):
    plain = post(caller, max_tokens=1)["usage"]["prompt_tokens"]
    offered = post(caller, tools=TOOLS, max_tokens=1)["usage"]["prompt_tokens"]
    assert offered > plain + len(json.dumps(TOOLS)) // 2  # a token a byte
    call = {"id": "a", "type": "function", "function": {"name": "roll", "arguments": '{"n": 6}'}}
    said = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "done"},
    ]
    ids = caller.post("/tokenize", json={"messages": said}).json()["tokens"]
    text = caller.post("/detokenize", json={"tokens": ids}).json()["prompt"]
    assert '{"name": "roll", "arguments": {"n": 6}}' in text
    assert "done" in text


def test_a_model_without_a_form_of_calls_says_so():
    with client_of(calling_model("another")) as client:
        answer = post(client, tools=TOOLS, max_tokens=2)
        assert "calls come as text" in answer["warnings"][0]
        post(client, status=400, tools=TOOLS, tool_choice="required")


@pytest.mark.parametrize(
    "body",
    [
        {"tools": 5},
        {"tools": [{}]},
        {"tools": [tool("a b")]},
        {"tools": [tool("a"), tool("a")]},
        {"tools": TOOLS, "tool_choice": "some"},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "no"}}},
        {"tool_choice": "required"},
        {"tools": TOOLS, "response_format": {"type": "json_object"}},
        {"response_format": {"type": "sound"}},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}},
        {"response_format": {"type": "json_object", "schema": {"type": "hiccup"}}},
        {"messages": [*HI, {"role": "assistant", "tool_calls": [5]}]},
    ],
)
def test_what_is_wrong_is_refused(caller, body):
    assert post(caller, status=400, **body)["error"]["message"]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_answers_follow_a_schema(client, path):
    form = {"type": "json_schema", "json_schema": {"name": "digit", "schema": DIGIT}}
    body = {"prompt": "hello", "response_format": form, "n": 4, "temperature": 1, "seed": 1}
    for choice in post(client, path, **body)["choices"]:
        text = choice["text"] if path == COMPLETIONS else choice["message"]["content"]
        assert 0 <= json.loads(text)["n"] <= 9
        assert choice["finish_reason"] == "stop"


def test_a_grammar_that_cannot_be_met_ends_its_request_alone(client):
    endless = {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}
    error = post(client, status=400, response_format=endless)["error"]
    assert error["code"] == "grammar"
    assert post(client, max_tokens=3)["choices"]
    wait_until(lambda: is_at_rest(client.app))


def test_a_conversation_keeps_calls_and_their_results(tmp_path):
    """The next prompt is that of a chat with the same messages."""
    told = {"tools": TOOLS, "temperature": 0, "max_tokens": 200}
    with client_of(calling_model(CALL_FORM), sessions=tmp_path) as client:
        name = client.post("/v1/sessions", json={}).json()["id"]
        path = f"/v1/sessions/{name}"
        with saying(CALLERS[CALL_FORM], f"Well.\n{CALL}"):
            answer = post(client, f"{path}/send", content="hi", **told)
        message = answer["choices"][0]["message"]
        assert answer["turn"]["tool_calls"] == message["tool_calls"]
        assert answer["turn"]["finish_reason"] == "tool_calls"

        (call,) = message["tool_calls"]
        results = [{"tool_call_id": call["id"], "content": "six"}]
        for wrong in ([{"tool_call_id": "other", "content": "six"}], [{"content": "six"}]):
            post(client, f"{path}/send", 400, tool_results=wrong, **told)
        sent = post(client, f"{path}/send", tool_results=results, **told | {"max_tokens": 8})
        messages = [*HI, message, {"role": "tool", **results[0]}]
        asked = post(client, messages=messages, **told | {"max_tokens": 8})
        assert sent["choices"][0]["message"]["content"] == asked["choices"][0]["message"]["content"]
        assert sent["usage"]["prompt_tokens"] == asked["usage"]["prompt_tokens"]
        before = client.get(path).json()["turns"]
        assert before[1]["tool_results"] == results
    with client_of(calling_model(CALL_FORM), sessions=tmp_path) as client:
        assert client.get(path).json()["turns"] == before
        post(client, f"{path}/rollback", turns=1)
        again = post(client, f"{path}/send", tool_results=results, **told | {"max_tokens": 8})
        assert again["choices"][0]["message"] == sent["choices"][0]["message"]

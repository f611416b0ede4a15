"""Calls that a grammar asks for: exactly those of the tools pass, and what passes is read as calls."""

import json

import numpy as np
import pytest

from tests.text.callers import CALLERS
from tests.text.test_call_formats import (
    NOW_JSON,
    NOW_LLAMA,
    NOW_XML,
    TOOLS,
    ULM_HARMONY,
    ULM_JSON,
    ULM_LLAMA,
    ULM_XML,
    read,
)
from xplm.errors import RequestError
from xplm.text.call_formats import find_call_format, tool_name
from xplm.text.thoughts import find_format
from xplm.text.tools import Tool

pytest.importorskip("llguidance", reason='needs the extra "serve"')

from tests.serve.test_grammar import follows  # needs llguidance
from xplm.serve.grammar import Grammars

LEVEL = Tool(
    "level",
    {
        "type": "object",
        "properties": {
            "unit": {"type": "string", "enum": ["m", "ft"]},
            "marks": {"type": "array", "items": {"$ref": "#/$defs/mark"}, "maxItems": 2},
        },
        "required": ["unit"],
        "additionalProperties": False,
        "$defs": {"mark": {"type": "integer", "minimum": 0, "maximum": 9}},
    },
)


def constrain(form, tools=TOOLS, several=True, prompt="a"):
    tokenizer = CALLERS[form]
    grammars = Grammars(tokenizer, find_format(tokenizer), (1,))
    prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
    return grammars.calls(find_call_format(tokenizer), tools, prompt_ids, several=several)


def passes(form, text, several=True):
    ids = CALLERS[form].encode(text, add_special_tokens=False)
    return follows(constrain(form, several=several), ids, 300)


@pytest.mark.parametrize(
    ("form", "one", "two"),
    [
        ("JSON in tags, no tokens", ULM_JSON, f"{ULM_JSON}\n{NOW_JSON}"),
        ("JSON in tags, tokens of the text", ULM_JSON, f"{ULM_JSON}\n{NOW_JSON}"),
        ("JSON in tags, special tokens", ULM_JSON, f"{ULM_JSON}\n{NOW_JSON}"),
        ("XML", ULM_XML, f"{ULM_XML}\n{NOW_XML}"),
        (
            "Mistral's list",
            '[TOOL_CALLS] [{"name": "now", "arguments": {}}]',
            '[TOOL_CALLS][{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}]',
        ),
        (
            "Mistral's arguments",
            "[TOOL_CALLS]now[ARGS]{}",
            "[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]now[ARGS]{}",
        ),
        ("Llama", ULM_LLAMA, f"{ULM_LLAMA}; {NOW_LLAMA}"),
    ],
)
def test_one_call_passes_and_two_if_there_may_be_several(form, one, two):
    assert passes(form, one, several=False)
    assert passes(form, one)
    assert passes(form, two)
    assert not passes(form, two, several=False)
    for bad in (f"I look. {one}", one[:-1], one.replace("now", "new").replace("weather", "w"), ""):
        assert not passes(form, bad)


def test_thoughts_come_before_calls():
    form = "JSON in tags, tokens of the text"
    assert passes(form, f"<think>\nHm.\n</think>\n\n{ULM_JSON}")
    assert not passes(form, f"<think>\nHm.\n{ULM_JSON}")


def test_channels_think_and_then_call():
    thought = "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant"
    assert passes("channels", ULM_HARMONY)
    assert passes("channels", thought + ULM_HARMONY)
    assert not passes("channels", thought + "<|channel|>final<|message|>Ulm")
    assert not passes("channels", ULM_HARMONY.replace('"Ulm"', "3"))


def test_arguments_follow_the_schema():
    form = "JSON in tags, no tokens"
    assert not passes(form, ULM_JSON.replace('"Ulm"', "3"))
    assert not passes(form, ULM_JSON.replace('"place": "Ulm", ', ""))
    assert not passes("XML", ULM_XML.replace("\n2\n", "\ntwo\n"))
    assert not passes("XML", ULM_XML.replace("place", "location"))
    assert passes("XML", ULM_XML.replace("Ulm", 'a <b>\n"c"'))
    assert passes("XML", ULM_XML.replace("<parameter=days>\n2\n</parameter>\n", ""))


@pytest.mark.parametrize(
    "form",
    [
        name
        for name in CALLERS
        if name not in ("another", "channels", "JSON in tags, tokens of the text")
    ],
)  # a thought of random tokens has no end
def test_any_reply_of_the_grammar_is_read_as_calls(form):
    tokenizer = CALLERS[form]
    tools = [
        LEVEL,
        Tool("now", {"type": "object", "properties": {}, "additionalProperties": False}),
    ]
    for seed in range(6):
        rng, constraint, ids = np.random.default_rng(seed), constrain(form, tools), []
        while not constraint.is_complete and len(ids) < 2000:
            masked = constraint.mask(rng.gumbel(size=300).astype(np.float32))
            ids.append(int(np.argmax(masked)))
            constraint.push(ids[-1])
            if ids[-1] == 1:
                break
        text = tokenizer.decode([i for i in ids if i != 1], skip_special_tokens=False)
        result = read(form, text, tools=tools).result(None)
        assert result.text == ""
        assert result.calls
        for call in result.calls:
            assert tool_name(call) in ("level", "now")
            arguments = json.loads(call.text)
            if tool_name(call) == "level":
                assert arguments["unit"] in ("m", "ft")
                assert all(0 <= mark <= 9 for mark in arguments.get("marks", []))


@pytest.mark.parametrize(
    "malformed",
    [
        {"required": 5},
        {"properties": {"x": {"type": "string", "enum": 5}}},
        {"properties": {"x": 5}},
    ],
)
@pytest.mark.parametrize("form", ["JSON in tags, no tokens", "XML"])
def test_a_schema_that_is_malformed_is_refused(form, malformed):
    with pytest.raises(RequestError):
        constrain(form, [Tool("f", {"type": "object"} | malformed)])


def test_a_tool_that_grammars_cannot_follow_is_refused():
    tools = [Tool("f", {"type": "object", "properties": {"x": {"not": {}}}})]
    for form in ("Llama", "XML"):
        with pytest.raises(RequestError, match="Unimplemented keys"):
            constrain(form, tools)

"""Calls in replies of every form, token by token; what is no call stays text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.generate.thinkers import CHANNELS, FORMS, HARMONY, TAGS, TURNS, thinker
from tests.text.callers import CALL_TAGS, CALLERS, JSON_TAGS
from xplm.generate.options import SamplingOptions
from xplm.generate.reply import Reply
from xplm.text.call_formats import (
    ChannelCalls,
    JsonTags,
    LlamaCalls,
    MistralCalls,
    XmlTags,
    find_call_format,
    tool_name,
    with_calls,
)
from xplm.text.chat import ChatTemplate
from xplm.text.reply_parts import Call, Part, merge_parts
from xplm.text.tools import Tool, template_messages

WEATHER = Tool(
    "weather",
    {
        "type": "object",
        "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["place"],
    },
)
TOOLS = [WEATHER, Tool("now", {"type": "object", "properties": {}})]
ULM = Call("weather", '{"place": "Ulm", "days": 2}')
NOW = Call("now", "{}")


def read(form, text, tools=TOOLS):
    """A finished reply, from its tokens one by one."""
    tokenizer = CALLERS[form]
    reply_format = with_calls(tokenizer, find_call_format(tokenizer), tools)
    reply = Reply(
        tokenizer,
        [5],
        SamplingOptions(),
        stop_ids=(1,),
        max_tokens=10_000,
        continues_prompt=False,
        reply_format=reply_format,
    )
    for token in [*tokenizer.encode(text, add_special_tokens=False), 1]:
        reply.push(token, 0.0)
    return reply


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("JSON in tags, no tokens", JsonTags),
        ("JSON in tags, tokens of the text", JsonTags),
        ("JSON in tags, special tokens", JsonTags),
        ("XML", XmlTags),
        ("Mistral's list", MistralCalls),
        ("Mistral's arguments", MistralCalls),
        ("Llama", LlamaCalls),
        ("channels", ChannelCalls),
        ("another", type(None)),
    ],
)
def test_the_form_is_found_in_the_template(form, kind):
    assert type(find_call_format(CALLERS[form])) is kind


@pytest.mark.parametrize("form", FORMS)
def test_templates_without_calls_have_no_form(form):
    kind = ChannelCalls if form == "channels" else type(None)
    assert type(find_call_format(FORMS[form])) is kind


ULM_JSON = (
    '<tool_call>\n{"name": "weather", "arguments": {"place": "Ulm", "days": 2}}\n</tool_call>'
)
NOW_JSON = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
ULM_XML = (
    "<tool_call>\n<function=weather>\n<parameter=place>\nUlm\n</parameter>\n"
    "<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>"
)
NOW_XML = "<tool_call>\n<function=now>\n</function>\n</tool_call>"
ULM_LLAMA = '{"name": "weather", "parameters": {"place": "Ulm", "days": 2}}'
NOW_LLAMA = '{"name": "now", "parameters": {}}'
ULM_HARMONY = '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"place": "Ulm", "days": 2}'


@pytest.mark.parametrize(
    "form",
    [
        "JSON in tags, no tokens",
        "JSON in tags, tokens of the text",
        "JSON in tags, special tokens",
    ],
)
@pytest.mark.parametrize(
    ("reply", "text", "calls"),
    [
        (ULM_JSON, "", [ULM]),
        (f"Let me look.\n\n{ULM_JSON}\n{NOW_JSON}", "Let me look.", [ULM, NOW]),
        (f"{ULM_JSON}{NOW_JSON}\nDone.\n", "Done.\n", [ULM, NOW]),
        (f"A < b,\n<tool {ULM_JSON}", "A < b,\n<tool", [ULM]),
        ("\n\nNo calls <tool_cal", "\n\nNo calls <tool_cal", []),
        ('<tool_call>{"name": "now"}</tool_call>', "", [NOW]),
        ('<tool_call>{"name": "now", "arguments": "{}"}</tool_call>', "", [NOW]),
        (
            '<tool_call>{"name": "weather", "arguments": {"place": "é</tool_call>☃"}}</tool_call>',
            "",
            [Call("weather", '{"place": "é</tool_call>☃"}')],
        ),
        ("<tool_call>{'name': 1}</tool_call> x", "<tool_call>{'name': 1}</tool_call> x", []),
        ('<tool_call>{"name": "now", "argu', '<tool_call>{"name": "now", "argu', []),
        (f"<tool_call>[]</tool_call>{NOW_JSON}", "<tool_call>[]</tool_call>", [NOW]),
        ('<tool_call>{"name": "now", "arguments": 3}</tool_call>', None, []),
        ('<tool_call>{"name": "now", "arguments": {"x": "\\ud800"}}</tool_call>', None, []),
        ('<tool_call>{"name": "\\udfff"}</tool_call>', None, []),
        ("<tool_call></tool_call>", None, []),
        ("<tool_call>" + "[" * 5000 + "</tool_call>", None, []),
    ],
)
def test_json_between_tags_is_a_call(form, reply, text, calls):
    found = read(form, reply)
    assert (found.text, found.result(None).calls) == (reply if text is None else text, calls)


@pytest.mark.parametrize(
    ("form", "reply", "text", "calls"),
    [
        ("XML", ULM_XML, "", [ULM]),
        ("XML", f"I look.\n{ULM_XML}\n{NOW_XML}\n", "I look.", [ULM, NOW]),
        ("XML", "<tool_call>\n<function=now></tool_call>", None, []),
        (
            "XML",
            "<tool_call><function=weather><parameter=place>\n12\n\n</parameter></function></tool_call>",
            "",
            [Call("weather", '{"place": "12\\n"}')],
        ),
        (
            "XML",
            "<tool_call><function=f><parameter=x>a</parameter>\n<parameter=y>[1]</parameter></function></tool_call>",
            "",
            [Call("f", '{"x": "a", "y": [1]}')],
        ),
        (
            "XML",
            "<tool_call><function=f><parameter=x>\n</tool_call>\n</parameter></function></tool_call>",
            "",
            [Call("f", '{"x": "</tool_call>"}')],
        ),
        ("XML", "<tool_call><function=f>x</function></tool_call>", None, []),
        (
            "Mistral's list",
            '[TOOL_CALLS] [{"name": "weather", "arguments": {"place": "Ulm", "days": 2}}, {"name": "now"}]',
            "",
            [ULM, NOW],
        ),
        ("Mistral's list", 'Well.[TOOL_CALLS][{"name": "now", "arguments": {}}]', "Well.", [NOW]),
        ("Mistral's list", '[TOOL_CALLS][{"name": "now", "argum', None, []),
        ("Mistral's list", "[TOOL_CALLS]", None, []),
        (
            "Mistral's arguments",
            '[TOOL_CALLS]weather[ARGS]{"place": "Ulm", "days": 2}[TOOL_CALLS]now[CALL_ID]123456789[ARGS]{}',
            "",
            [ULM, NOW],
        ),
        ("Mistral's arguments", "[TOOL_CALLS]now{}", "", [NOW]),
        ("Mistral's arguments", "[TOOL_CALLS]now[ARGS]{", None, []),
        ("Mistral's arguments", "[TOOL_CALLS]now[ARGS]{x}[TOOL_CALLS]now[ARGS]{}", "[TOOL_CALLS]now[ARGS]{x}", [NOW]),
        ("Llama", ULM_LLAMA, "", [ULM]),
        ("Llama", f"<|python_tag|>{ULM_LLAMA}; {NOW_LLAMA}", "", [ULM, NOW]),
        ("Llama", f"\n{ULM_LLAMA}\n<|python_tag|>{NOW_LLAMA}\n", "", [ULM, NOW]),
        ("Llama", '{"type": "function", "name": "now", "parameters": {}}', "", [NOW]),
        ("Llama", '{"name": "other", "parameters": {}}', None, []),
        ("Llama", '{"name": "Ada", "age": 36} is JSON', None, []),
        ("Llama", '{"a": 1}', None, []),
        ("Llama", f"I call {NOW_LLAMA}", None, []),
        ("Llama", '<|python_tag|>search.call(query="x")', None, []),
        ("Llama", f"{NOW_LLAMA}<|python_tag|>search", None, []),
        ("Mistral's arguments", "An [ARGS] alone[CALL_ID]", None, []),
        ("Llama", "", None, []),
        ("channels", ULM_HARMONY, "", [Call("functions.weather", ULM.text)]),
        (
            "channels",
            f"<|channel|>analysis<|message|>Hm<|end|><|start|>assistant{ULM_HARMONY}",
            "",
            [Call("functions.weather", ULM.text)],
        ),
    ],
)  # fmt: skip
def test_calls_of_other_forms(form, reply, text, calls):
    found = read(form, reply)
    assert (found.text, found.result(None).calls) == (reply if text is None else text, calls)


def test_thoughts_are_told_from_calls():
    found = read(
        "JSON in tags, tokens of the text", f"<think>\nA {NOW_JSON}?\n</think>\n\n{ULM_JSON}"
    )
    result = found.result(None)
    assert (result.reasoning, result.text, result.calls) == (f"A {NOW_JSON}?", "", [ULM])


def test_tokens_of_calls_in_a_thought_are_spelled_out():
    form = with_calls(thinker(JSON_TAGS, (*TURNS, *TAGS, *CALL_TAGS)), JsonTags(), TOOLS)
    stand_ins = {marker: chr(0xD800 + n) for n, marker in enumerate(form.markers)}
    assert list(stand_ins) == [*TAGS, *CALL_TAGS]
    begin, end, call, called = stand_ins.values()
    splitter = form.splitter([5], stand_ins)
    parts = splitter.push(f"{begin}a{call}b{end}c{called}") + splitter.flush()
    assert merge_parts(parts) == [
        Part("reasoning", "a<tool_call>b"),
        Part("content", "c</tool_call>"),
    ]


def test_text_comes_as_soon_as_it_is_certain():
    tokenizer = CALLERS["JSON in tags, no tokens"]
    splitter = with_calls(tokenizer, JsonTags(), TOOLS).splitter([5], {})
    pieces = [
        "Let",
        " me",
        "\n",
        "<",
        "tool",
        " box",
        " <tool_call>",
        '{"name": "now"}',
        "</tool_",
        "call>",
    ]
    assert [splitter.push(piece) for piece in pieces] == [
        [Part("content", "Let")],
        [Part("content", " me")],
        [],
        [],
        [],
        [Part("content", "\n<tool box")],
        [],
        [],
        [],
        [Part("call", "", "now"), Part("call", "{}", "now")],
    ]  # fmt: skip
    assert splitter.flush() == []


def test_json_that_is_no_call_comes_at_once():
    splitter = with_calls(CALLERS["Llama"], LlamaCalls(), TOOLS).splitter(
        [5], {"<|python_tag|>": "\ud800"}
    )
    assert [splitter.push(piece) for piece in ("{", ' "na', 'tion"', ": 1")] == [
        [],
        [],
        [Part("content", '{ "nation"')],
        [Part("content", ": 1")],
    ]


WORDS = ("<tool_call>", "</tool_call>", "<tool", "_call>", '{"name": "now"}', "\n", "a", '"', "{")


@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=6).map("".join), max_size=6))
def test_how_a_reply_is_cut_makes_no_difference(texts):
    form = with_calls(CALLERS["JSON in tags, no tokens"], JsonTags(), TOOLS)

    def run(pieces):
        splitter = form.splitter([5], {})
        return merge_parts([*(p for x in pieces for p in splitter.push(x)), *splitter.flush()])

    whole = "".join(texts)
    parts = run(texts)
    assert parts == run([whole]) == run(whole)
    if not any(part.kind == "call" for part in parts):
        assert "".join(part.text for part in parts) == whole


@pytest.mark.parametrize(
    "form",
    ["JSON in tags, no tokens", "XML", "Mistral's list", "Mistral's arguments", "Llama"],
)
def test_what_a_template_writes_of_a_call_is_read_as_that_call(form):
    arguments = {"place": 'a "b"\n<é>', "days": 3}
    function = {"name": "weather", "arguments": json.dumps(arguments)}
    call = {"id": "123456789", "type": "function", "function": function}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    template = ChatTemplate.from_tokenizer(CALLERS[form])
    text = template.render(template_messages([said]), add_generation_prompt=False)
    reply = text.removeprefix("<|im_start|>assistant\n").removesuffix("<|im_end|>\n")
    (found,) = read(form, reply).result(None).calls
    assert (found.recipient, json.loads(found.text)) == ("weather", arguments)


def test_markers_do_not_end_a_reply():
    form = with_calls(CALLERS["Mistral's arguments"], MistralCalls(), TOOLS)
    assert not form.ends_reply("[TOOL_CALLS]")
    assert form.ends_reply("<|im_end|>")
    channels = with_calls(thinker(CHANNELS, HARMONY), ChannelCalls(), TOOLS)
    assert channels.ends_reply("<|call|>")


def test_channels_put_a_namespace_in_front_of_a_name():
    assert tool_name(Call("functions.weather", "{}")) == tool_name(ULM) == "weather"

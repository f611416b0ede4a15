"""Tools of a request, and messages of calls, as chat templates read them."""

import pytest

from xplm.errors import RequestError
from xplm.text.tools import Tool, read_offer, template_messages

SCHEMA = {"type": "object", "properties": {"place": {"type": "string"}}}


def tool(name, **function):
    return {"type": "function", "function": {"name": name, **function}}


def named(name):
    return {"type": "function", "function": {"name": name}}


TOOLS = [tool("weather", description="Of a place.", parameters=SCHEMA), tool("now")]
WEATHER, NOW = Tool("weather", SCHEMA), Tool("now", {"type": "object", "properties": {}})


@pytest.mark.parametrize(
    ("tools", "choice", "expected"),
    [
        (None, None, ([], None, False)),
        ([], "auto", ([], None, False)),
        (None, "none", ([], None, False)),
        (TOOLS, "none", ([], None, False)),
        (TOOLS, None, ([WEATHER, NOW], TOOLS, False)),
        (TOOLS, "auto", ([WEATHER, NOW], TOOLS, False)),
        (TOOLS, "required", ([WEATHER, NOW], TOOLS, True)),
        (TOOLS, named("now"), ([NOW], TOOLS, True)),
        ([tool("auto"), tool("x")], named("auto"), ([NOW._replace(name="auto")], None, True)),
    ],
)
def test_a_choice_says_which_tools_may_be_called(tools, choice, expected):
    offer = read_offer(tools, choice)
    described = tools if expected[2] else expected[1]
    assert offer == (expected[0], described, expected[2])


@pytest.mark.parametrize(
    ("tools", "choice", "message"),
    [
        ({}, None, "tools must be a list"),
        (["weather"], None, "a tool must be"),
        ([{"type": "custom", "custom": {}}], None, "a tool must be"),
        ([tool("")], None, "a tool's name must be"),
        ([tool('a"b')], None, "a tool's name must be"),
        ([tool("a\n")], None, "a tool's name must be"),
        ([tool(3)], None, "a tool's name must be"),
        ([tool("a", parameters=[])], None, 'parameters of "a" must be a JSON schema'),
        ([tool("a"), tool("a")], None, 'got "a" twice'),
        ([tool(f"a{n}") for n in range(129)], None, "at most 128; got 129"),
        (None, "required", "must come with tools"),
        ([], named("now"), "must come with tools"),
        (TOOLS, named("other"), 'must be one of the tools, weather, now; got "other"'),
        (TOOLS, "weather", "tool_choice must be none, auto, required or"),
        (TOOLS, {"function": {}}, "tool_choice must be"),
        (TOOLS, ["auto"], "tool_choice must be"),
    ],
)
def test_what_is_malformed_gets_one_clear_line(tools, choice, message):
    with pytest.raises(RequestError, match=message) as caught:
        read_offer(tools, choice)
    assert "\n" not in str(caught.value)


def calls(**function):
    return {
        "role": "assistant",
        "tool_calls": [{"id": "1", "type": "function", "function": function}],
    }


def test_templates_are_given_arguments_as_objects():
    user = {"role": "user", "content": "?"}
    said = calls(name="weather", arguments='{"place": "Ulm"}')
    answer = {"role": "tool", "tool_call_id": "1", "content": "Rain."}
    given = template_messages([user, {**said, "content": None}, answer])
    assert given == [
        user,
        calls(name="weather", arguments={"place": "Ulm"}) | {"content": ""},
        answer,
    ]
    assert said["tool_calls"][0]["function"]["arguments"] == '{"place": "Ulm"}'
    (kept,) = template_messages([calls(name="now", arguments="") | {"content": "I look."}])
    assert kept == calls(name="now", arguments={}) | {"content": "I look."}
    assert template_messages([{"role": "assistant", "content": "", "tool_calls": None}]) == [
        {"role": "assistant", "content": ""}
    ]


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ({"role": "assistant", "tool_calls": {}}, "tool_calls must be a list"),
        ({"role": "assistant", "tool_calls": ["x"]}, "a call must be"),
        (calls(arguments="{}"), "a call must be"),
        (calls(name="now", arguments="{"), 'arguments of a call of "now" must be a JSON object'),
        (calls(name="now", arguments="[1]"), "must be a JSON object"),
        (calls(name="now", arguments="[" * 9999), "must be a JSON object"),
        (calls(name="now", arguments=None), "must be a JSON object"),
    ],
)
def test_a_call_that_is_malformed_gets_one_clear_line(message, complaint):
    with pytest.raises(RequestError, match=complaint):
        template_messages([message])

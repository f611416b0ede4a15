"""--template-arg reaches the chat template, and only it."""

import json

import pytest
import typer

from tests.generate.tiny import CHAT_TEMPLATE
from xplm.cli.template_args import parse_template_args

TEMPLATE = "{% if tone %}{{ tone }}{{ tone is string }}{% endif %}" + CHAT_TEMPLATE


@pytest.fixture
def toned(spoilt):
    """The tiny model, with a template that reads `tone`."""
    path = spoilt / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"chat_template": TEMPLATE}
    path.write_text(json.dumps(config))
    return spoilt


@pytest.mark.parametrize("command", ["chat", "generate"])
def test_a_name_reaches_the_template(xplm, toned, command):
    flags = ("--model", toned, "--max-new-tokens", 2)
    flags += ("--json",) if command == "chat" else ("--json", "--chat", "Hi")

    def prompt(*more):
        out = xplm(command, *flags, *more, stdin="Hi\n")
        assert out.code == 0, out.stderr
        return out.json["prompt_tokens"] if command == "generate" else out.json["messages"]

    plain = prompt()
    if command == "generate":
        assert prompt("--template-arg", "tone=dry") == plain + len("dryTrue")
        assert prompt("--template-arg", "tone=12") == plain + len("12False")
    else:
        assert prompt("--template-arg", "tone=false") == plain


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("tnoe=1", 'it has no "tnoe"; check the name'),
        ("messages=1", "must not be one of messages"),
        ("chat_template=[1]", "chat_template must be a template's name; got [1]"),
    ],
)
def test_a_name_that_the_template_does_not_read_is_refused(xplm, toned, text, fragment):
    assert fragment in xplm("chat", "--model", toned, "--template-arg", text).error


def test_values_are_json_or_else_text():
    given = ["a=false", "b=dry", "c=[1]", "d=", "e=x=y", 'f="1"']
    assert parse_template_args(given) == {
        "a": False, "b": "dry", "c": [1], "d": "", "e": "x=y", "f": "1",
    }  # fmt: skip
    assert parse_template_args(None) == {}


@pytest.mark.parametrize("given", [["a"], ["=1"], ["a b=1"], ["a=1", "a=2"]])
def test_what_is_no_name_and_value_is_refused(given):
    with pytest.raises(typer.BadParameter):
        parse_template_args(given)


def test_template_args_need_chat(xplm):
    assert "--template-arg needs --chat" in xplm("generate", "Hi", "--template-arg", "a=1").error

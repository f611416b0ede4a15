"""Marked text answers as the text without marks, and no operation of a template loses a mark."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xplm.text.marked import MARK, Marked, mark_all, plain, wrap

TOKEN, BROKEN = "<|e|>", f"<{MARK}|e|>"
PARTS = st.sampled_from([BROKEN, "<", "|", "e", ">", " ", "\n", "ab", "é"])
MARKED = st.lists(PARTS, min_size=1).map("".join).filter(lambda t: MARK in t).map(Marked)
NEEDLES = st.sampled_from([TOKEN, "<|", "|>", "e", " ", "b", "x", "\n", "<"])
COUNTS = st.integers(-1, 3)

OPERATIONS = {
    "contains": lambda text, needle, n: needle in text,
    "equal": lambda text, needle, n: (text == needle, text != needle, needle == text),
    "order": lambda text, needle, n: (text < needle, text <= needle, text > needle, text >= needle),
    "length": lambda text, needle, n: len(text),
    "index": lambda text, needle, n: [text[i] for i in range(len(text))],
    "slice": lambda text, needle, n: (text[n:], text[:n], text[::-1], text[-3:n]),
    "iterate": lambda text, needle, n: list(text),
    "find": lambda text, needle, n: (text.find(needle), text.rfind(needle), text.count(needle)),
    "ends": lambda text, needle, n: (text.startswith(needle), text.endswith((needle, ">"))),
    "split": lambda text, needle, n: (text.split(needle), text.split(needle, n), text.split()),
    "rsplit": lambda text, needle, n: (text.rsplit(needle, n), text.rsplit(None, n)),
    "lines": lambda text, needle, n: (text.splitlines(), text.splitlines(True)),
    "partition": lambda text, needle, n: (text.partition(needle), text.rpartition(needle)),
    "replace": lambda text, needle, n: (text.replace(needle, "-"), text.replace(needle, "", n)),
    "strip": lambda text, needle, n: (text.strip(), text.lstrip(needle), text.rstrip(needle)),
    "remove": lambda text, needle, n: (text.removeprefix(needle), text.removesuffix(needle)),
    "case": lambda text, needle, n: (text.upper(), text.lower(), text.capitalize()),
    "is": lambda text, needle, n: (text.isalpha(), text.isspace(), text.isupper()),
    "join": lambda text, needle, n: (text + needle, needle + text, text * 2, text + text),
    "repr": lambda text, needle, n: (repr(text), repr([text + "'", text + "\"'\\"]), f"{text!r}"),
    "as a key": lambda text, needle, n: {text: n}.get(str(plain(text))),
}


def plain_all(value):
    if isinstance(value, list | tuple):
        return type(value)(map(plain_all, value))
    return str.replace(value, MARK, "") if isinstance(value, str) else value


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=30, deadline=None)
@given(text=MARKED, needle=NEEDLES, n=COUNTS)
def test_answers_are_those_of_the_text_without_marks(name, text, needle, n):
    operation = OPERATIONS[name]
    assert plain_all(operation(text, needle, n)) == operation(plain(text), needle, n)


@settings(max_examples=30, deadline=None)
@given(text=MARKED, needle=NEEDLES, n=COUNTS)
def test_parts_put_together_again_hold_every_mark(text, needle, n):
    whole = str.join("", text.split(needle)), str.join("", [text[:n], text[n:]]), "".join(text)
    assert str.count(whole[1], MARK) == str.count(text, MARK) == str.count(whole[2], MARK)
    for part in (*text.split(needle), *text.rsplit(needle, n), *text.partition(needle), text[n:]):
        assert TOKEN not in str.replace(part, BROKEN, "") or TOKEN in needle


def test_marks_come_out_where_the_text_is_written():
    text = wrap(BROKEN)
    assert str.__contains__(f"{text}", MARK)
    assert str.__contains__("%s" % text, MARK)  # noqa: UP031, as a template may
    assert str.__contains__(json.dumps({text: [text]}, ensure_ascii=False), BROKEN)


def test_a_nest_is_marked_where_it_holds_a_mark():
    nest = mark_all({BROKEN: ["a", {"b": BROKEN}]})
    assert nest[TOKEN][1]["b"] == TOKEN
    assert type(nest[TOKEN][0]) is str

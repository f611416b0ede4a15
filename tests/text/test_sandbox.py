"""A template that comes with a checkpoint cannot leave its sandbox."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xplm.errors import TemplateError
from xplm.text.chat import ChatTemplate

MESSAGES = [{"role": "user", "content": "hi"}]

ESCAPES = {
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "class that is not used": "{% set x = ''.__class__ %}",
    "subscript": "{{ ''['__class__'] }}",
    "attribute by filter": "{{ messages | map(attribute='__class__') | list }}",
    "sort key": "{{ messages | sort(attribute='__class__') }}",
    "globals of a function": "{{ raise_exception.__globals__ }}",
    "globals of a class": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "format string": "{{ '{0.__class__}'.format(messages) }}",
    "format map": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "template's own self": "{{ self.__init__.__globals__ }}",
    "macro": "{% macro f() %}{% endmacro %}{{ f.__init__.__globals__ }}",
    "loop": "{% for m in messages %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "changing a message": "{% set _ = messages[0].update({'role': 'system'}) %}",
    "changing the list": "{{ messages.append(1) }}",
    "changing by the type": "{{ dict.update(messages[0], {'role': 'system'}) }}",
    "protocols of a namespace": "{% set ns = namespace(__html__=1) %}",
    "protocols set later": "{% set ns = namespace() %}{% set ns.__call__ = 1 %}",
    "the request": "{{ self._TemplateReference__context.environment }}",
}

MALFORMED = {
    "tag": "{% for %}",
    "unclosed": "{{ messages",
    "unknown filter": "{{ 1 | nosuch }}",
    "unknown test": "{{ 1 is nosuch }}",
    "parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "nested loops": "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
    "huge integer": "{{ " + "9" * 5000 + " }}",
}

FAULTS = {
    "undefined": "{{ nosuch.attribute }}",
    "division": "{{ 1 / 0 }}",
    "types": "{{ 1 + 'a' }}",
    "arguments": "{{ messages[0].get() }}",
    "call": "{{ 3() }}",
    "unpacking": "{% for a, b in [1] %}{% endfor %}",
}


@pytest.mark.parametrize("source", ESCAPES.values(), ids=ESCAPES)
def test_no_way_out(source: str) -> None:
    with pytest.raises(TemplateError, match="the chat template"):
        ChatTemplate(source).render(MESSAGES)


@pytest.mark.parametrize("source", MALFORMED.values(), ids=MALFORMED)
def test_malformed_templates_do_not_compile(source: str) -> None:
    with pytest.raises(TemplateError, match=r"^the chat template does not compile: \S"):
        ChatTemplate(source)


@pytest.mark.parametrize("source", FAULTS.values(), ids=FAULTS)
def test_a_template_that_fails_says_why_in_one_line(source: str) -> None:
    template = ChatTemplate(source)
    with pytest.raises(TemplateError, match=r"^the chat template failed: \S[^\n]*$"):
        template.render(MESSAGES)


FILTERED = {
    "abs": ("-2 | abs", "2"),
    "capitalize": ("'aB' | capitalize", "Ab"),
    "count": ("[7, 7] | count", "2"),
    "d": ("nosuch | d('x')", "x"),
    "default": ("nosuch | default('x')", "x"),
    "dictsort": ("{'b': 1, 'a': 2} | dictsort", "[('a', 2), ('b', 1)]"),
    "e": ("'<' | e", "&lt;"),
    "escape": ("'<' | escape", "&lt;"),
    "first": ("'ab' | first", "a"),
    "float": ("'1.5' | float", "1.5"),
    "groupby": ("([{'k': 1}, {'k': 1}] | groupby('k'))[0].list | length", "2"),
    "indent": ("'a\nb' | indent(2)", "a\n  b"),
    "int": ("'7' | int + 1", "8"),
    "items": ("{'a': 1} | items | list", "[('a', 1)]"),
    "join": ("[1, 2] | join('-')", "1-2"),
    "last": ("'ab' | last", "b"),
    "length": ("'ab' | length", "2"),
    "list": ("'ab' | list", "['a', 'b']"),
    "lower": ("'aB' | lower", "ab"),
    "map": ("'ab' | map('upper') | join", "AB"),
    "max": ("[1, 3, 2] | max", "3"),
    "min": ("[1, 3, 2] | min", "1"),
    "reject": ("[1, 2, 3] | reject('odd') | list", "[2]"),
    "rejectattr": ("[{'k': 1}] | rejectattr('k') | list", "[]"),
    "replace": ("'aba' | replace('a', 'cc')", "ccbcc"),
    "reverse": ("'ab' | reverse", "ba"),
    "safe": ("'<' | safe", "<"),
    "select": ("[1, 2, 3] | select('odd') | list", "[1, 3]"),
    "selectattr": ("[{'k': 1}] | selectattr('k') | list", "[{'k': 1}]"),
    "sort": ("[2, 1] | sort", "[1, 2]"),
    "string": ("(1 | string) ~ 2", "12"),
    "title": ("'a b' | title", "A B"),
    "tojson": ("{'a': '<é'} | tojson", '{"a": "<é"}'),
    "trim": ("' a ' | trim", "a"),
    "unique": ("[1, 1] | unique | list", "[1]"),
    "upper": ("'aB' | upper", "AB"),
    "wordcount": ("'a b' | wordcount", "2"),
}


def test_filters_work() -> None:
    for expression, expected in FILTERED.values():
        assert ChatTemplate("{{ " + expression + " }}").render(MESSAGES) == expected


FRAGMENTS = [
    "{{", "}}", "{%", "%}", "for x in", "messages", "endfor", "if", "endif", "set y =", "x", "|", "list", "~", "+",
    "*", "9", "'a'", "[", "]", "(", ")", ".", "content", "macro f()", "endmacro", "is", "in", "__class__", "\n",
]  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=25))
def test_any_source_renders_or_raises_our_error(parts: list[str]) -> None:
    try:
        text = ChatTemplate(" ".join(parts)).render(MESSAGES)
    except TemplateError:
        return
    assert isinstance(text, str)

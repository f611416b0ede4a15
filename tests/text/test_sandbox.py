"""A template that comes with a checkpoint can neither leave its sandbox nor hang or fill the machine."""

import resource
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xplm.errors import TemplateError
from xplm.text.chat import ChatTemplate
from xplm.text.sandbox import FILTERS

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
}

GROW = "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = #### %}{% endfor %}{{ ns.x }}"
BIG = "{% set big = 'a' * 40000000 %}{% for i in range(99999) %}{% set y = #### %}{% endfor %}"

RUNAWAYS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loops that drop all": "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "range": "{% for i in range(10 ** 9) %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}",
    "call block": (
        "{% macro f() %}{% for i in range(99999) %}{{ caller() }}{% endfor %}{% endmacro %}"
        "{% call f() %}{% for i in range(99999) %}{% endfor %}{% endcall %}"
    ),
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "literal text": "{% for i in range(99999) %}" + "x" * 90_000 + "{% endfor %}",
    "constants": "{% for i in range(99999) %}{{ 'x' | replace('', 'y' * 100000) }}{% endfor %}",
    "repetition": "{{ 'a' * 10 ** 10 }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "squares": GROW.replace("'aaaaaaaa'", "9").replace("####", "ns.x * ns.x"),
    "sums": GROW.replace("####", "ns.x + ns.x"),
    "concatenation": GROW.replace("####", "ns.x ~ ns.x"),
    "lists": GROW.replace("####", "[ns.x, ns.x]"),
    "tuples": GROW.replace("####", "(ns.x, ns.x)"),
    "dicts": GROW.replace("####", "{'a': ns.x, 'b': ns.x}"),
    "dict calls": GROW.replace("####", "dict(a=ns.x, b=ns.x)"),
    "map's default": GROW.replace("####", "'abcd' | map(attribute='q', default=ns.x) | list"),
    "blocks": GROW.replace(
        "{% set ns.x = #### %}", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"
    ),
    "replace": "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "replace filter": "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}",
    "mapped replace": "{{ (['a' * 1000] * 1000) | map('replace', 'a', 'b' * 1000) | list }}",
    "join": "{{ ('b' * 100000).join('a' * 100000) }}",
    "join filter": "{{ ('a' * 100000) | join('b' * 100000) }}",
    "indent": "{{ 'a\nb' | indent(10 ** 10) }}",
    "tojson": "{{ [[1]] | tojson(indent=10 ** 10) }}",
    "padding": "{{ 'a'.ljust(10 ** 10) }}",
    "formatting": "{{ '%10000000000d' % 1 }}",
    "time widths": "{{ strftime_now('%800000000d') }}",
    "time widths with flags": "{{ strftime_now('%-_800000000d') }}",
    "time of any length": "{{ strftime_now('%c' * 1000000) }}",
    "bytes": "{{ (5).to_bytes(10 ** 10, 'big') }}",
    "searching": BIG.replace("####", "'b' in big"),
    "searching by method": BIG.replace("####", "big.find('b')"),
    "searching by test": BIG.replace("####", "'b' is in big"),
    "slicing": BIG.replace("####", "big[::-1]"),
    "reducing": "{% set x = range(99999) | list %}{% for i in range(99999) %}{% set y = x | max %}{% endfor %}",
}

MALFORMED = {
    "tag": "{% for %}",
    "unclosed": "{{ messages",
    "unknown filter": "{{ 1 | nosuch }}",
    "unknown test": "{{ 1 is nosuch }}",
    "parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "nested loops": "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
    "huge integer": "{{ " + "9" * 5000 + " }}",
    "too long": "x" * 100_001,
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


@pytest.mark.parametrize("source", RUNAWAYS.values(), ids=RUNAWAYS)
def test_no_runaway(source: str) -> None:
    n_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = time.process_time()
    with pytest.raises(TemplateError, match="the chat template"):
        ChatTemplate(source).render(MESSAGES)
    # Measured: below a second and 100 MB on two slow cores. The bounds tell that from no bound at all.
    assert time.process_time() - seconds < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - n_bytes < 2**30


@pytest.mark.parametrize("source", MALFORMED.values(), ids=MALFORMED)
def test_malformed_templates_do_not_compile(source: str) -> None:
    with pytest.raises(
        TemplateError, match=r"^(the|a) chat template (does not compile|has at most)"
    ):
        ChatTemplate(source)


@pytest.mark.parametrize("source", FAULTS.values(), ids=FAULTS)
def test_a_template_that_fails_says_why_in_one_line(source: str) -> None:
    template = ChatTemplate(source)
    with pytest.raises(TemplateError, match=r"^the chat template failed: \S[^\n]*$"):
        template.render(MESSAGES)


def test_a_long_chat_is_affordable() -> None:
    source = (
        "{% for m in messages %}{% if messages | length > 1 and m.role in ['user', 'assistant'] %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content | trim + '<|im_end|>' ~ '\n' }}{% endif %}{% endfor %}"
    )
    messages = [{"role": "user", "content": "word " * 100}] * 1000  # some 100,000 tokens
    assert len(ChatTemplate(source).render(messages)) == 1000 * (12 + 4 + 1 + 499 + 10 + 1)


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


def test_every_filter_on_offer_works() -> None:
    assert FILTERED.keys() == FILTERS
    for expression, expected in FILTERED.values():
        assert ChatTemplate("{{ " + expression + " }}").render(MESSAGES) == expected


FRAGMENTS = [
    "{{", "}}", "{%", "%}", "for x in", "messages", "endfor", "if", "endif", "set y =", "x", "|", "list", "~", "+",
    "*", "9", "'a'", "[", "]", "(", ")", ".", "content", "macro f()", "endmacro", "is", "in", "__class__", "\n",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=25))
def test_any_source_renders_or_raises_our_error(parts: list[str]) -> None:
    try:
        text = ChatTemplate(" ".join(parts)).render(MESSAGES)
    except TemplateError:
        return
    assert isinstance(text, str)

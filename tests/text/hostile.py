"""Chat templates that want all the time or memory there is, made from everything that jinja2 offers them."""

from typing import Any

from jinja2.filters import FILTERS
from jinja2.tests import TESTS

LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}#{% endfor %}{% endfor %}"
TEXT = "{% set big = 'a<b ' * 1000000 %}"
LIST = "{% set big = range(99999) | list %}"
NUMBER = "{% set big = 7 ** (messages | length * 9999) %}"
DICT = "{% set big = dict.fromkeys(range(99999), 'ab') %}"
GROW = "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = # %}{% endfor %}{{ ns.x }}"
INTS = (
    "{% set ns = namespace(x=9) %}{% for i in range(99) %}{% set ns.x = # %}{% endfor %}{{ ns.x }}"
)
DEEP = "{% set ns = namespace(x=1) %}{% for i in range(99999) %}{% set ns.x = # %}{% endfor %}"

ARGUMENTS = {
    "attr": "('x')", "batch": "(2, 'x')", "default": "('x')", "format": "(1)", "groupby": "(0)", "join": "('xy')",
    "map": "('string')", "reject": "('odd')", "rejectattr": "('x')", "replace": "('a', 'bcd')", "select": "('odd')",
    "selectattr": "('x')", "slice": "(2)", "truncate": "(9)", "wordwrap": "(1)",
    "divisibleby": "(7)", "eq": "(1)", "equalto": "(1)", "==": "(1)", "ge": "(1)", ">=": "(1)", "gt": "(1)",
    ">": "(1)", "greaterthan": "(1)", "in": "(big)", "le": "(1)", "<=": "(1)", "lt": "(1)", "<": "(1)",
    "lessthan": "(1)", "ne": "(1)", "!=": "(1)", "sameas": "(1)",
}  # fmt: skip
METHOD_ARGUMENTS = {
    "center": "(9000000)", "count": "('a')", "endswith": "('b')", "find": "('x')", "format": "(1)",
    "format_map": "({})", "fromkeys": "(big)", "get": "(1)", "index": "('a')", "join": "(big)", "ljust": "(9000000)",
    "maketrans": "({})", "partition": "('x')", "removeprefix": "('a')", "removesuffix": "('b')",
    "replace": "('a', 'bcd')", "rfind": "('x')", "rindex": "('a')", "rjust": "(9000000)", "rpartition": "('x')",
    "startswith": "('x')", "to_bytes": "(9999, 'big')", "translate": "({97: 'xyz'})", "zfill": "(9000000)",
}  # fmt: skip


def _methods() -> dict[str, str]:
    """Every public method of a text, a list, a dict and a number, on a large one, for ever."""
    made = {}
    for begin, kind in ((TEXT, str), (LIST, list), (DICT, dict), (NUMBER, int)):
        for name in dir(kind):
            if not name.startswith("_"):
                call = f"{{% set y = big.{name}{METHOD_ARGUMENTS.get(name, '()')} %}}"
                made[f"method {kind.__name__}.{name}"] = begin + LOOP.replace("#", call)
    return made


def _filters() -> dict[str, str]:
    """Every filter on a large text and a large list, and on each item of one by its name."""
    made = {}
    for name in _without_aliases(FILTERS):
        call = f"{{% set y = big | {name}{ARGUMENTS.get(name, '')} | string %}}"
        made[f"filter {name} of a text"] = TEXT + LOOP.replace("#", call)
        made[f"filter {name} of a list"] = LIST + LOOP.replace("#", call)
    for name in (
        "center",
        "title",
        "escape",
        "list",
        "pprint",
        "reverse",
        "tojson",
        "urlize",
        "wordcount",
    ):
        mapped = f"{{% set y = ([big] * 999) | map('{name}') | list %}}"
        made[f"filter {name} by map"] = TEXT + LOOP.replace("#", mapped)
    return made


def _tests() -> dict[str, str]:
    """Every test, by itself and by `select`."""
    made = {}
    for name in _without_aliases(TESTS):
        if name.isidentifier():
            call = f"{{% if big is {name}{ARGUMENTS.get(name, '')} %}}{{% endif %}}"
            made[f"test {name}"] = TEXT + LOOP.replace("#", call)
        more = "".join(f", {a}" for a in [ARGUMENTS.get(name, "()")[1:-1]] if a)
        selected = f"{{% set y = big | select('{name}'{more}) | list %}}"
        made[f"test {name} by select"] = LIST + LOOP.replace("#", selected)
    return made


def _without_aliases(functions: dict[str, Any]) -> list[str]:
    return list({function: name for name, function in functions.items()}.values())


_GROWTHS = [
    "ns.x + ns.x", "ns.x ~ ns.x", "ns.x * 2", "[ns.x, ns.x]", "(ns.x, ns.x)", "{'a': ns.x, 'b': ns.x}",
    "dict(a=ns.x, b=ns.x)", "namespace(a=ns.x, b=ns.x)", "'%s%s' % (ns.x, ns.x)", "'%s%s' | format(ns.x, ns.x)",
    "'{0}{0}'.format(ns.x)", "'{a}{a}'.format_map({'a': ns.x})", "ns.x.replace('a', 'aa')", "ns.x | replace('a', 'aa')",
    "ns.x.join('abc')", "'abc' | join(ns.x)", "ns.x | center(ns.x | length * 2)", "ns.x.ljust(ns.x | length * 2)",
    "ns.x | tojson | tojson", "ns.x | pprint", "[ns.x, ns.x] | string", "ns.x | list * 2", "ns.x | urlize ~ ns.x",
    "{'k': ns.x, 'l': ns.x} | xmlattr", "(ns.x ~ '<') | escape ~ ns.x", "['', ''] | sum(start=ns.x) ~ ns.x",
    "'abcd' | map(attribute='q', default=ns.x) | list", "'abc' | batch(2, ns.x) | list | string",
    "'a b' | wordwrap(1, wrapstring=ns.x ~ ns.x)", "('a' * 99) | truncate(9, end=ns.x ~ ns.x)",
    "'a\nb\nc' | indent(ns.x)", "ns.x.expandtabs(ns.x | length)", "lipsum(html=False) ~ ns.x ~ ns.x",
    "ns.x.split('a')", "ns.x.encode() + ns.x.encode()", "cycler(ns.x, ns.x)", "joiner(ns.x ~ ns.x)()",
]  # fmt: skip
_INTS = [
    "ns.x * ns.x", "ns.x ** 9", "ns.x ** ns.x", "ns.x + ns.x", "(ns.x | string * 9) | int", "ns.x // 7 * ns.x",
    "ns.x * ns.x % 7 ** 99999", "(ns.x * ns.x) | float", "ns.x | round(ns.x)", "-ns.x * ns.x", "ns.x | abs * ns.x",
]  # fmt: skip
_NESTINGS = [
    "[ns.x]", "(ns.x,)", "{'a': ns.x}", "namespace(x=ns.x)", "dict(a=ns.x)", "cycler(ns.x)", "[ns.x] | map('list')",
    "[ns.x] | batch(1)", "ns", "[ns]", "ns.x | list",
]  # fmt: skip
_WIDE = [
    "'a' * 10 ** 10", "'ab' * 10 ** 7", "[1] * 10 ** 10", "'a' | center(10 ** 10)", "'a'.ljust(10 ** 10)",
    "'1'.zfill(10 ** 10)", "'a\tb'.expandtabs(10 ** 9)", "(5).to_bytes(10 ** 10, 'big')", "'a\nb' | indent(10 ** 10)",
    "[[1]] | tojson(indent=10 ** 10)", "'%10000000000d' % 1", "'%.10000000000f' % 1.5", "'%*d' % (10 ** 9, 1)",
    "'%10000000000d' | format(1)", "'{:10000000000}'.format(1)", "'{:>{}}'.format(1, 10 ** 10)",
    "'{:.1000000000f}'.format(1.5)", "strftime_now('%800000000d')", "strftime_now('%-_800000000d')",
    "strftime_now('%c' * 1000000)", "lipsum(n=10 ** 9)", "lipsum(min=10 ** 8, max=10 ** 9)", "range(10 ** 9) | list",
    "9 ** (9 ** 9)", "2 ** (10 ** 10)", "7 ** (7 ** (7 ** 7))", "('9' * 4000) | int ** 9999", "('9' * 10 ** 8) | int",
    "('f' * 10 ** 8) | int(base=16)", "'%x' % 2 ** (10 ** 9)", "'{:,}'.format(2 ** (10 ** 8))", "1.5 | round(10 ** 9)",
    "10 ** 400 | float", "('1' * 10 ** 8) | float", "raise_exception('x' * 10 ** 8)", "[1] | batch(10 ** 10, 0) | list",
    "[1] | slice(10 ** 10) | list", "('a' * 100000).replace('a', 'b' * 100000)", "('b' * 100000).join('a' * 100000)",
    "(['a' * 1000] * 1000) | map('replace', 'a', 'b' * 1000) | list", "cycler(*range(99999) | list * 9999)",
    "dict.fromkeys(range(99999) | list * 9999)", "range(99999) | map('string') | join | list * 99999",
    "[-10 ** 15] | map(' spend') | list", "('a b ' * 10 ** 8) | title", "('a' * 10 ** 8) | urlize",
]  # fmt: skip

_BODIES = {
    "loops": LOOP.replace("#", ""),
    "loops that drop all": LOOP.replace("range(99999) %}#", "range(99999) if false %}"),
    "output in loops": LOOP.replace("#", "x" * 9000),
    "recursive loop": "{% for x in [[]] recursive %}{{ loop([x, x]) }}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}",
    "endless macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "call block": "{% macro f() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    + "{% call f() %}" * 15 + LOOP + "{% endcall %}" * 15,
    "block of itself": "{% block a %}{{ self.a() }}{% endblock %}",
    "blocks twice": "".join(f"{{% block a{n} %}}{{{{ self.a{n + 1}() * 2 }}}}{{% endblock %}}" for n in range(99)),
    "set block": GROW.replace("{% set ns.x = # %}", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"),
    "filter block": "{% filter center(10 ** 10) %}a{% endfilter %}",
    "cycler": "{% set c = cycler(*range(99999)) %}" + LOOP.replace("#", "{{ c.next() }}"),
    "joiner": "{% set c = joiner('x' * 99999) %}" + LOOP.replace("#", "{{ c() }}"),
    "searching a range": LOOP.replace("#", "{% if 5.5 in range(99999) %}{% endif %}"),
    "slicing": TEXT + LOOP.replace("#", "{% set y = big[::-1] %}"),
    "comparing": TEXT + LOOP.replace("#", "{% if big == big ~ 'a' %}{% endif %}"),
    "namespace of itself": "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}{{ ns | tojson }}",
}  # fmt: skip

_COMPILED = {
    "parentheses": "{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}",
    "brackets": "{{ " + "[" * 90 + "1" + "]" * 90 + " }}",
    "long sum": "{{ 1" + " + 1" * 99999 + " }}",
    "long concatenation": "{{ 1" + " ~ x" * 99999 + " }}",
    "long comparison": "{{ 1" + " < 1" * 99999 + " }}",
    "signs": "{{ " + "-" * 99999 + "1 }}",
    "negations": "{{ " + "not " * 9999 + "1 }}",
    "attributes": "{{ messages" + ".x" * 99999 + " }}",
    "calls": "{{ messages" + "()" * 99999 + " }}",
    "filters": "{{ 1" + " | string" * 9999 + " }}",
    "conditions": "{{ 1" + " if x else 1" * 9999 + " }}",
    "arguments": "{{ dict(" + ", ".join(f"a{n}={n}" for n in range(99999)) + ") }}",
    "list": "{{ [" + "1, " * 999999 + "] }}",
    "prints": "{{ 1 }}" * 199999,
    "sets": "".join(f"{{% set a{n} = {n} %}}" for n in range(29999)),
    "branches": "{% if x %}" + "{% elif x %}" * 29999 + "{% endif %}",
    "nested loops": "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
    "nested conditions": "{% if x %}" * 999 + "{% endif %}" * 999,
    "nested macros": "".join(f"{{% macro f{n}() %}}" for n in range(99)) + "{% endmacro %}" * 99,
    "nested blocks": "".join(f"{{% block f{n} %}}" for n in range(99)) + "{% endblock %}" * 99,
    "huge integer": "{{ " + "9" * 999999 + " }}",
    "huge text": "x" * 2**24 + "y",
    "huge literal": "{{ '" + "x" * 2**23 + "' | upper }}",
    "comments": "{#" * 999999,
    "raw": "{% raw %}" * 199999,
    "white space": "{%-" + " " * 9999999 + "%}",
    "line breaks": "\n" * 9999999 + "{%- set x = 1 %}",
    "open text": "{{ '" + "\\" * 999999,
    "dots": "{{ 1" + "." * 999999 + " }}",
    "underscores": "{{ 1" + "_1" * 999999 + "_ }}",
    "nothing": "\0" * 999999,
    "folded": "{{ ('ab' * 10 ** 7) | list | sort | join | upper | wordwrap(1) }}",
}


def hostile_templates() -> dict[str, str]:
    """All of them by name."""
    made = _methods() | _filters() | _tests() | _BODIES
    made |= {f"growth of text by {body}": GROW.replace("#", body) for body in _GROWTHS}
    made |= {f"growth of numbers by {body}": INTS.replace("#", body) for body in _INTS}
    made |= {f"depth by {body}": DEEP.replace("#", body) for body in _NESTINGS}
    for use in (
        "{{ ns.x }}",
        "{{ ns.x | tojson }}",
        "{{ ns.x == ns.x }}",
        "{{ [ns.x, 1] | sort }}",
    ):
        made[f"depth in {use}"] = DEEP.replace("#", "[ns.x]") + use
    made |= {f"size of {body}": "{{ " + body + " }}" for body in _WIDE}
    made |= {
        f"size in a loop of {body}": LOOP.replace("#", "{{ " + body + " }}") for body in _WIDE[::5]
    }
    return made | {f"compiling {name}": source for name, source in _COMPILED.items()}

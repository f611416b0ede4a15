"""The environment that chat templates run in: jinja2's immutable sandbox, with a budget.

A chat template is a program that came with somebody else's checkpoint. The sandbox keeps it from reaching Python's
internals; the budget keeps it from running for ever and from filling the memory. The budget counts characters:

    one turn of a loop                          LOOP_COST, and the literal text in its body
    one call of a macro                         MACRO_COST, and the literal text in its body
    a value that is built, returned or printed  its characters, and ITEM_COST for it and each item inside it
    a value that is compared                    the same
    a value that is read by a filter or method  its characters, or READ_COST for each of its items
    a value that grows by a product             that product, before it is computed

so that a render ends within seconds and some hundred megabytes, whatever its template does. jinja2 has no hook for
loops, literals, slices, comparisons and `~`: `xplm.text.metering` writes their charges into the template. What no chat
template needs and would have to be metered, such as string formatting and padding, is not offered.
"""

import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from xplm.text.metering import BUILT, CONCAT, SPEND, write_charges

BUDGET = 50_000_000
"""Characters that one render may spend: a hundred times the text of a 128k-token context."""

ITEM_COST = 64
READ_COST = 16
MAX_INT_BITS = 4096
MAX_TIME_FORMAT_CHARS = 200

# fmt: off
FILTERS = frozenset({
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float",
    "groupby", "indent", "int", "items", "join", "last", "length", "list", "lower", "map", "max",
    "min", "reject", "rejectattr", "replace", "reverse", "safe", "select", "selectattr", "sort",
    "string", "title", "tojson", "trim", "unique", "upper", "wordcount",
})
_UNMETERED_ATTRIBUTES = frozenset({
    "center", "encode", "expandtabs", "format", "format_map", "ljust", "maketrans", "rjust",
    "to_bytes", "translate", "zfill",
})
# fmt: on
_MULTIPLYING = frozenset({"indent", "join", "replace", "tojson"})
_REPEATING = frozenset({"*", "indent", "tojson"})


class _GenerationTag(Extension):
    """`{% generation %}`, which marks the assistant's words for training; here it is its body."""

    tags = {"generation"}  # noqa: RUF012, the extension's protocol

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class MeteredEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox with the names and the white-space rules of Hugging Face's chat templates. Good for one render."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, now: datetime | None = None) -> None:
        """Make an environment with a full budget.

        Args:
            now: what `strftime_now` reads; the wall clock if None.
        """
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=self._print,
            optimized=False,  # charges are for the run, not for the compiler to evaluate once
            extensions=[loopcontrols, _GenerationTag],
        )
        self._remaining = BUDGET
        self.globals.pop("lipsum")
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda form: _format_time(now or datetime.now(), form)
        filters = {name: jinja2.filters.FILTERS[name] for name in FILTERS} | {"tojson": _to_json}
        self.filters = {name: self._metered(name, function) for name, function in filters.items()}
        tests: dict[str, Any] = jinja2.tests.TESTS
        self.tests = {name: self._metered(name, function) for name, function in tests.items()}
        self.filters |= {SPEND: self._spend, BUILT: self._charged, CONCAT: self._concatenate}

    def parse_metered(self, source: str) -> nodes.Template:
        """The template's syntax tree, with its charges written in.

        Raises:
            jinja2.TemplateSyntaxError: the source is not a template, or wants a filter that is not offered here.
        """
        return write_charges(self.parse(source))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may read `obj.attr`; on top of jinja2's rule, nothing that pads or formats text."""
        return attr not in _UNMETERED_ATTRIBUTES and super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """Refuse at once, also where a template would not have used the attribute.

        Raises:
            SecurityError: always.
        """
        raise SecurityError(
            f"attribute {attribute!r} of a {type(obj).__name__} is not offered to chat templates"
        )

    def wrap_str_format(self, value: Any) -> None:
        """No exception for `str.format`: a width in a format string costs memory that nothing meters."""

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method, a macro or a global of the template, and charge for what it returns."""
        name = getattr(function, "__name__", "")
        operands = [getattr(function, "__self__", None), *args, *kwargs.values()]
        self._read(name, operands)
        return self._charged(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Evaluate `left operator right`, charging for what it builds, before it is built where that can be large."""
        if operator == "%" and isinstance(left, str):
            raise SecurityError("the % operator on text is not offered to chat templates")
        if operator == "*":
            self._afford_product(operator, [left, right])
        if operator in ("*", "**") and _int_bits(operator, left, right) > MAX_INT_BITS:
            raise SecurityError(f"a chat template's integers stay below 2**{MAX_INT_BITS}")
        return self._charged(super().call_binop(context, operator, left, right))

    def _metered(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            operands = [a for a in args if not isinstance(a, nodes.EvalContext)]
            self._read(name, [*operands, *kwargs.values()])
            result = function(*args, **kwargs)
            return self._charged(list(result) if isinstance(result, Iterator) else result)

        return run

    def _afford(self, n_chars: int) -> None:
        if n_chars > self._remaining:
            raise SecurityError(
                f"a chat template may spend {BUDGET} characters on its work, and this one wants more"
            )

    def _read(self, name: str, operands: list[Any]) -> None:
        """Charge for what the function `name` looks through, and refuse what it cannot build within the budget."""
        self._spend(sum(len(x) for x in operands if isinstance(x, str)))
        self._spend(sum(READ_COST * len(x) for x in operands if isinstance(x, list | tuple | dict)))
        if name in _MULTIPLYING:
            self._afford_product(name, operands)

    def _spend(self, n_chars: int) -> bool:
        self._afford(n_chars)
        self._remaining -= n_chars
        return True

    def _charged(self, value: Any) -> Any:
        self._spend(self._size(value))
        return value

    @jinja2.pass_context  # which, besides, keeps the compiler from printing constants on its own
    def _print(self, context: Context, value: Any) -> Any:
        return self._charged(value)

    def _concatenate(self, values: list[Any]) -> str:
        text: str = self._charged("".join(map(str, values)))
        return text

    def _afford_product(self, name: str, operands: list[Any]) -> None:
        """Refuse a product of sizes that the budget cannot hold; an integer counts as itself where it repeats text."""

        def factor(operand: Any) -> int:
            if isinstance(operand, str):
                return len(operand)
            if isinstance(operand, int) and name in _REPEATING:
                return abs(operand)
            return self._size(operand)

        if all(isinstance(operand, int | float) for operand in operands):
            return
        if name == "replace":  # what is replaced does not lengthen the result
            del operands[1:2]
        self._afford(math.prod(max(1, factor(operand)) for operand in operands))

    def _size(self, value: Any) -> int:
        """The characters in a value, and ITEM_COST for each item in it; stops once the budget cannot hold it."""
        size, pending = 0, [value]
        while pending and size <= self._remaining:
            item = pending.pop()
            size += ITEM_COST + (len(item) if isinstance(item, str) else 0)
            if isinstance(item, dict):
                pending.extend(item)
                pending.extend(item.values())
            elif isinstance(item, list | tuple | set | frozenset):
                pending.extend(item)
        return size


def _int_bits(operator: str, left: Any, right: Any) -> int:
    if not (isinstance(left, int) and isinstance(right, int)):
        return 0
    bits = left.bit_length()
    return bits * max(0, right) if operator == "**" else bits + right.bit_length()


def _format_time(now: datetime, form: str) -> str:
    """`strftime`, but for the widths that glibc takes: a few characters would buy any length."""
    if len(form) > MAX_TIME_FORMAT_CHARS or re.search(r"%[-_^#+]*[0-9]", form):
        raise SecurityError(
            f"a chat template's time format has no widths and at most {MAX_TIME_FORMAT_CHARS} characters"
        )
    return now.strftime(form)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """`tojson` without jinja2's escapes for HTML, as Hugging Face's templates expect it."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )

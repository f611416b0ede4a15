"""The environment that chat templates run in: jinja2's immutable sandbox, with the names that transformers offers.

A chat template is a program that came with somebody else's checkpoint. The sandbox keeps it from Python's internals,
and so from files and other processes. It does not bound time and memory: `xplm.text.render_worker` does.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from types import CodeType
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame, optimizeconst
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from xplm.text.marked import wrap


def compile_template(source: str) -> CodeType:
    """Compile a template.

    Raises:
        Exception: of any kind, for jinja2 and Python's compiler pass theirs on.
    """
    return _Environment().compile(source)


def render_template(
    code: CodeType, variables: Mapping[str, Any], now: datetime, *, is_marked: bool = False
) -> str:
    """Render a compiled template.

    Args:
        code: the template.
        variables: names that the template sees, with values of JSON's types.
        now: the time that `strftime_now` formats.
        is_marked: the variables hold Marked texts, and what the template joins with them is Marked too.

    Raises:
        Exception: of any kind, for jinja2 passes on the errors of the operations that a template asks for.
    """
    environment = _Environment()
    if is_marked:
        environment.concat = lambda texts: wrap("".join(texts))  # type: ignore[method-assign]
    environment.globals["strftime_now"] = now.strftime
    template = jinja2.Template.from_code(environment, code, environment.make_globals(None))
    return template.render(variables)


class _CodeGenerator(CodeGenerator):
    """Compiles `a ~ b` to the environment's own `concat`, as jinja2 does the output of blocks and macros."""

    @optimizeconst
    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802, jinja2's name
        self.write("environment.concat(map(str, (")
        for operand in node.nodes:
            self.visit(operand, frame)
            self.write(", ")
        self.write(")))")


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox with the names and the white-space rules of Hugging Face's chat templates."""

    code_generator_class = _CodeGenerator

    def __init__(self) -> None:
        extensions = [loopcontrols, _GenerationTag]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _raise_exception
        self.globals["dict"] = _Dict()
        self.globals["namespace"] = _Namespace

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """Refuse at once, also where a template would not have used the attribute.

        Raises:
            SecurityError: always.
        """
        raise SecurityError(
            f"attribute {attribute!r} of a {type(obj).__name__} is not offered to chat templates"
        )


class _GenerationTag(Extension):
    """`{% generation %}`, which marks the assistant's words for training; here it is its body."""

    tags = {"generation"}  # noqa: RUF012, the extension's protocol

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Dict:
    """`dict` without the methods of the type, which would change a dict that is not the template's."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """`namespace` without names that begin with an underscore, by which Python would find an object's protocols."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that a name may be "self"
        self, *positional = args
        attributes = dict(*positional, **kwargs)
        for name in attributes:
            _require_public(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_public(name)
        super().__setitem__(name, value)


def _require_public(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace's names must not begin with an underscore, got {name!r}")


def _raise_exception(message: str) -> NoReturn:
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

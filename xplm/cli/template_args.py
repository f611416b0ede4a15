"""--template-arg: names that a chat template reads beside the messages."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

TemplateArgs = Annotated[
    list[str] | None,
    typer.Option(
        "--template-arg",
        metavar="KEY=VALUE",
        help="A name that the chat template reads, such as enable_thinking=false; may be given several times.",
    ),
]


def parse_template_args(given: Sequence[str] | None) -> dict[str, Any]:
    """The names and their values: JSON where it is some, or else text.

    Raises:
        BadParameter: one is not KEY=VALUE, or a key is given twice.
    """
    args: dict[str, Any] = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise typer.BadParameter(f'--template-arg must be KEY=VALUE; got "{text}"')
        if key in args:
            raise typer.BadParameter(f"--template-arg must give {key} once; got it twice")
        args[key] = _value(value)
    return args


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text

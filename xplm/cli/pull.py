"""`xplm pull`: fetch a model."""

from typing import Annotated

import typer

from xplm.checkpoint.named import NAMED, full_name
from xplm.cli.flags import takes_flags
from xplm.cli.output import Output, OutputFlags
from xplm.cli.places import home
from xplm.cli.progress import pull_with_progress


@takes_flags
def pull(
    output: OutputFlags,
    name: Annotated[
        str,
        typer.Argument(help="smollm2-135m-instruct:q4_1, or a Hugging Face id such as org/name."),
    ],
) -> None:
    """Fetch a model.

    Prints where it lies. What is here already is not fetched again; an interrupted fetch loses nothing.

    Example: xplm pull smollm2-135m-instruct:q4_1
    """
    out = Output(output)
    path = pull_with_progress(name, home(), out)
    name = full_name(name)
    stored_as = NAMED[name].stored_as if name in NAMED else None
    if stored_as:
        out.note(
            f"{name} holds weights quantised to {stored_as}; models compute with what they decode to"
        )
    out.line(str(path))
    out.result({"name": name, "path": str(path), "stored_as": stored_as})

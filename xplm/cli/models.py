"""`xplm models`: the models on this machine, and removing them."""

from typing import Annotated

import typer

from xplm.checkpoint.pulled import PulledModel, list_models, remove_model
from xplm.cli.flags import takes_flags
from xplm.cli.output import Output, OutputFlags
from xplm.cli.places import home
from xplm.errors import RequestError

app = typer.Typer(
    name="models",
    help="List the models on this machine, or remove one: xplm models remove NAME",
    invoke_without_command=True,
)


@app.callback()
@takes_flags
def models(context: typer.Context, output: OutputFlags) -> None:
    """List the models on this machine with their sizes, or remove one.

    Example: xplm models
    """
    if context.invoked_subcommand:
        if output != OutputFlags():
            raise RequestError(
                f"flags must follow their command; write: xplm models {context.invoked_subcommand} NAME --json"
            )
        return
    out, found = Output(output), list_models(home())
    width = max(len(model.name) for model in found)
    for model in found:
        state = "" if model.is_whole else "  (interrupted; pull it again)"
        kind = f"  holds {model.stored_as}" if model.stored_as else ""
        out.line(
            f"{model.name:{width}}  {model.n_bytes / 1e6:9.1f} MB  {model.source}: {model.path}{kind}{state}"
        )
    total = sum(model.n_bytes for model in found)
    out.result({"models": [as_dict(model) for model in found], "n_bytes": total})


@app.command()
@takes_flags
def remove(
    output: OutputFlags,
    name: Annotated[str, typer.Argument(help="A name that xplm models shows.")],
) -> None:
    """Remove a pulled model from the disk.

    Example: xplm models remove smollm2-135m-instruct:q4_1
    """
    out = Output(output)
    model = remove_model(name, home())
    if model.is_link:
        out.line(f"removed {model.name}: the link {model.path}; what it led to stays")
    else:
        out.line(f"removed {model.name}: {model.n_bytes / 1e6:.1f} MB in {model.path}")
    out.result(as_dict(model))


def as_dict(model: PulledModel) -> dict[str, object]:
    """A model by name, for JSON."""
    return model._asdict() | {"path": str(model.path)}

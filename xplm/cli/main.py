"""The `xplm` command.

Exit codes: 0 done; 1 a check failed; 2 bad usage or bad input, with one line on stderr; 130 interrupted.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import numpy as np
import typer

import xplm as library
from xplm.backend import is_memory_error
from xplm.cli.output import error_line, progress_as_before
from xplm.cli.stdio import give_up_stdout, prepare_streams
from xplm.errors import RequestError, XplmError
from xplm.host_memory import free_memory
from xplm.out_of_memory import format_bytes, quote

BROKEN_PIPE = 1  # as typer answers one that it meets itself
BAD_INPUT = 2

COMMANDS = (
    "generate", "chat", "serve", "pull", "models", "convert", "eval", "train", "precision", "bench", "explain",
    "gradcheck", "grade", "parity", "doctor",
)  # fmt: skip
"""In the order of the help. Each is a function, or an `app` of several, in a module of its own name."""

HELP_ALONE: tuple[list[str], ...] = ([], ["eval"], ["precision"])
"""Command lines that name no command yet: each prints the help that lists the commands."""


def make_app(commands: Sequence[str] = COMMANDS) -> typer.Typer:
    """The command line with some of its commands: only what is asked for is imported."""
    app = typer.Typer(
        name="xplm",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(xplm)
    for name in commands:
        module = import_module(f"xplm.cli.{name}")
        if hasattr(module, "app"):
            app.add_typer(module.app)
        else:
            app.command()(getattr(module, name))
    return app


def _print_version(asked: bool) -> None:
    if asked:
        print(f"xplm {library.__version__}")
        raise typer.Exit


def xplm(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print it."),
    ] = False,
) -> None:
    """Train and run language models on kernels that you can read.

    First: xplm pull smollm2-135m-instruct:q4_1. Then: xplm chat
    """


def main(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: what follows `xplm` on the command line.

    Returns:
        The exit code.
    """
    arguments = [*arguments, *(["--help"] if list(arguments) in HELP_ALONE else [])]
    named = (_completed_words() or arguments)[:1]
    wanted: Sequence[str] = COMMANDS
    if named == ["--version"]:
        wanted = ()
    elif named and named[0] in COMMANDS:
        wanted = named
    app = make_app(wanted)
    try:
        # What overflows is found where it matters, in the logits or the loss; a warning would be a second line.
        with np.errstate(all="ignore"), progress_as_before():
            code = app(arguments, prog_name="xplm", standalone_mode=False)
    except typer.TyperException as error:  # an unknown flag, a missing argument
        message = error.format_message().rstrip(".")
        joint = " See" if message.endswith("?") else "; see"
        message += f"{joint} {_command_of(error, app, arguments)} --help"
        print(error_line(message), file=sys.stderr)
        return BAD_INPUT
    except XplmError as error:
        print(error_line(str(error)), file=sys.stderr)
        return BAD_INPUT
    except Exception as error:
        if not is_memory_error(error):
            raise
        failure = quote(error)
    else:
        return code or 0
    # Here the failed command's arrays are gone, so that there is memory for a message.
    free = free_memory()
    there = "" if free is None else f"; {format_bytes(free)} are free"
    message = f"a command must fit the memory; got: {failure}{there}; ask for less, or free memory"
    print(error_line(message), file=sys.stderr)
    return BAD_INPUT


def _command_of(error: typer.TyperException, app: typer.Typer, arguments: Sequence[str]) -> str:
    """The command that refused its arguments, such as "xplm eval perplexity"."""
    context: typer.Context | None = getattr(error, "ctx", None)
    if context is not None:
        return context.command_path
    path = ["xplm"]  # a flag without its value has no context
    commands = getattr(typer.main.get_command(app), "commands", {})
    for word in arguments:
        if word not in commands:
            break
        path.append(word)
        commands = getattr(commands[word], "commands", {})
    return " ".join(path)


def _completed_words() -> list[str]:
    """The words after `xplm` that a shell asks to complete, in the two ways that typer's scripts hand them over."""
    if "_XPLM_COMPLETE" not in os.environ:
        return []
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    return line.split()[1:]


def run() -> None:
    """Entry point: run what the command line says, and exit."""
    prepare_streams()
    if sys.platform == "win32":
        print("note: xplm is untested on Windows; where it fails, use WSL", file=sys.stderr)
    code = main(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        give_up_stdout()
        code = code or BROKEN_PIPE
    except RequestError as error:
        give_up_stdout()
        if code == 0:
            print(error_line(str(error)), file=sys.stderr)
            code = BAD_INPUT
    sys.exit(code)

"""`xplm serve`: a model behind OpenAI's HTTP interface."""

import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from xplm.backend import DeviceMemory
from xplm.cli.flags import DEFAULT_KERNELS, ModelFlags, takes_flags
from xplm.cli.output import Output, OutputFlags
from xplm.cli.places import sessions_directory
from xplm.errors import RequestError
from xplm.language_model import LanguageModel
from xplm.out_of_memory import UNITS, format_bytes
from xplm.runtime import INVARIANT, has_invariant

NEEDED = ("starlette", "uvicorn", "msgspec", "prometheus_client", "llguidance")
INSTALL = 'pip install "xplm[serve]"'

DRAIN_SECONDS = 600
"""For replies to finish after SIGTERM."""

FAILED = 1
"""Exit code of a server that a bug has ended."""

CACHE_SHARE = 4
"""Of the memory that is free once the model is there, one part in so many is for keys and values, unless told."""

WARM_UP_TOKENS = 20
"""A prompt that is read by the kernels of long ones."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTPE]i?B?|B)?", re.IGNORECASE)


@takes_flags
def serve(
    model: ModelFlags,
    output: OutputFlags,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port; 0 takes one that is free.")
    ] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option(help="A file with API keys, one a line; requests must have one.")
    ] = None,
    served_name: Annotated[
        str | None, typer.Option(help="The model's name to clients; if not given, as --model.")
    ] = None,
    any_model: Annotated[
        bool, typer.Option("--any-model", help="Answer requests for models of any name.")
    ] = False,
    cache_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="For keys and values, such as 2GiB; if not given, a quarter of what is free.",
        ),
    ] = None,
    no_invariant: Annotated[
        bool,
        typer.Option(
            "--no-invariant", help="Let replies depend on who else is served, by rounding."
        ),
    ] = False,
    max_rows: Annotated[int, typer.Option(min=1, help="Replies that grow at a time.")] = 32,
    sessions: Annotated[
        Path | None,
        typer.Option(help="Where conversations are kept; if not given, with the user's state."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name of this machine that requests may use."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL", help="A site whose web pages may use the server: https://example.org."
        ),
    ] = None,
) -> None:
    """Serve a model to OpenAI's clients over HTTP.

    On numpy the same request gets the same reply whoever else is served,
    bit for bit, unless --no-invariant says otherwise. It listens on this
    machine alone, unless --host says otherwise. SIGTERM and Ctrl-C let
    replies finish; a second Ctrl-C does not.

    Example: xplm serve --model smollm2-135m-instruct:q4_1 --port 8000
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise RequestError(f"xplm serve needs {', '.join(missing)}; run: {INSTALL}")
    from xplm.serve.app import make_app
    from xplm.serve.guard import host_name, read_keys
    from xplm.serve.listen import listen
    from xplm.serve.settings import Settings

    out = Output(output)
    settings = Settings(
        model=served_name or model.model,
        takes_any_model=any_model,
        hosts=frozenset(host_name(name) for name in [host, *(allow_host or [])]),
        origins=frozenset(origin.rstrip("/").lower() for origin in allow_origin or []),
        key_digests=read_keys(api_key_file) if api_key_file else frozenset(),
        cache_bytes=parse_size(cache_memory) if cache_memory else None,
        sessions=sessions or sessions_directory(),
        most_rows=max_rows,
    )
    lm = order_invariant(model, out, is_off=no_invariant).load(out)
    if settings.cache_bytes is None:
        settings = replace(settings, cache_bytes=share_of(lm.rt.backend.memory()))
    warm_up(lm)
    app = make_app(lm, settings)

    def on_ready(address: str) -> None:
        out.line(f"{settings.model} at {address}")
        if settings.cache_bytes is not None:
            out.note(f"cache: {format_bytes(settings.cache_bytes)}")

    if not listen(app, host, port, on_ready=on_ready, drain_seconds=DRAIN_SECONDS):
        raise typer.Exit(FAILED)


def order_invariant(model: ModelFlags, out: Output, *, is_off: bool) -> ModelFlags:
    """The flags of a server: with kernels "invariant", unless others are asked for or the backend has none of them.

    Raises:
        RequestError: the mode is asked for and turned off.
    """
    if is_off and model.kernels == INVARIANT:
        raise RequestError("--no-invariant turns off what --invariant asks for; leave one out")
    if is_off or model.kernels != DEFAULT_KERNELS:
        return model
    rt = model.where.runtime(model.policy)
    if not has_invariant(rt.backend, rt.policy):
        out.note(
            f"{rt.backend.name} under {rt.policy} cannot promise a request the same bits whoever else is served; "
            "numpy can, under fp32, bf16 and fp16"
        )
        return model
    return replace(model, where=replace(model.where, invariant=True))


def warm_up(lm: LanguageModel) -> None:
    """Have the kernels that replies need loaded, or compiled, before anybody waits for one."""
    length = min(WARM_UP_TOKENS, lm.engine.context - 2)
    if length > 0:  # two rows, for a batch has kernels of its own
        lm.generate([[0] * length] * 2, max_new_tokens=2, ignore_eos=True)


def share_of(memory: DeviceMemory) -> int | None:
    """Bytes for keys and values out of a device's free memory; None where that is not known."""
    return None if memory.free is None else memory.free // CACHE_SHARE


def parse_size(text: str) -> int:
    """Bytes of a size such as "2GiB", "512M" or "1000000".

    Raises:
        RequestError: it is none.
    """
    found = _SIZE.fullmatch(text.strip())
    n_bytes = 0
    if found:
        unit = (found[2] or "B").upper().removesuffix("IB").removesuffix("B")
        power = [name[0] for name in UNITS].index(unit or "B")
        n_bytes = int(float(found[1]) * 1024**power)
    if n_bytes < 1:
        raise RequestError(f"a size must be a number and a unit, such as 2GiB; got {text!r}")
    return n_bytes

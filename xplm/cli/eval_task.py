"""`xplm eval TASK`: tasks of lm-eval, asked of a model of this process or of one behind a server."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from xplm.cli.flags import ModelFlags, takes_flags
from xplm.cli.output import Output, OutputFlags
from xplm.cli.serve import order_invariant, share_of
from xplm.errors import RequestError
from xplm.evaluate.report import Row, table_lines
from xplm.evaluate.subject import Asking, Subject
from xplm.generate.scheduler import MOST_ROWS

NEEDED = ("lm_eval", "datasets", "httpx", "yaml")
INSTALL = 'pip install "xplm[eval]"'

LIBRARY_SETTINGS = {"TQDM_DISABLE": "1", "DISABLE_MULTIPROC": "1"}
"""Of lm-eval's libraries: no bars beside this command's own, and no processes forked from one with threads."""


@takes_flags
def task(
    model: ModelFlags,
    output: OutputFlags,
    tasks: Annotated[
        list[str],
        typer.Argument(metavar="TASK...", help="Names of lm-eval's tasks, or YAML files."),
    ],
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Ask the model that xplm serve has there."),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="With --server: a file whose first line is an API key.")
    ] = None,
    include_path: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A directory with further tasks, as YAML files."),
    ] = None,
    num_fewshot: Annotated[
        int | None,
        typer.Option(min=0, help="Examples before each document; if not given, as the task says."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Documents of a task; if not given, all.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask in the model's chat template.")] = False,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of sampled answers; one has the seed after another's.")
    ] = 0,
    no_invariant: Annotated[
        bool,
        typer.Option("--no-invariant", help="Let numbers depend on the batch, by rounding."),
    ] = False,
    max_rows: Annotated[
        int, typer.Option(min=1, help="Requests that are computed at a time.")
    ] = MOST_ROWS,
) -> None:
    """Ask a model the tasks of lm-eval, or your own in its format.

    On numpy the numbers are the same, bit for bit, in this process and with
    --server, unless --no-invariant says otherwise. A task's YAML may name
    Python functions, which are run: use only tasks that you trust.

    Example: xplm eval arc_easy --limit 100

    Example: xplm eval tasks/mine.yaml --server http://127.0.0.1:8000
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise RequestError(f"xplm eval TASK needs {', '.join(missing)}; run: {INSTALL}")
    refuse_mixture(model, server, api_key_file)
    for name, value in LIBRARY_SETTINGS.items():
        os.environ.setdefault(name, value)
    from xplm.evaluate.harness import load_tasks

    out = Output(output)
    asking = Asking(num_fewshot, limit, chat, system, seed)
    with library_output(out):
        if out.shows_progress and not all(Path(name).is_file() for name in tasks):
            out.note("reading lm-eval's list of tasks")
        loaded = load_tasks(tasks, include_path)
        if server is not None:
            subject = served_model(server, api_key_file, out)
        else:
            subject = local_model(model, out, no_invariant=no_invariant, most_rows=max_rows)
        rows, n_cut = loaded.ask(subject, asking)
    if n_cut:
        out.note(
            f"{n_cut} prompts did not fit the context of {subject.context}: their beginning is left out"
        )
    show(out, rows, subject, asking, server)


def refuse_mixture(model: ModelFlags, server: str | None, api_key_file: Path | None) -> None:
    """Refuse flags of a model in this process together with a server, and a key without one.

    Raises:
        RequestError: they are there.
    """
    if server is None:
        if api_key_file is not None:
            raise RequestError("--api-key-file is for a server; give --server, or leave it out")
        return
    default = ModelFlags()
    given = [f"--{f.name}" for f in fields(model) if f.name != "where"
             and getattr(model, f.name) != getattr(default, f.name)]  # fmt: skip
    given += [flag for flag in model.where.not_default() if flag.startswith("--")]
    if given:
        raise RequestError(
            f"with --server the model is the server's, computed as the server says; leave out {', '.join(given)}"
        )


def local_model(model: ModelFlags, out: Output, *, no_invariant: bool, most_rows: int) -> Subject:
    """The model of this process."""
    from xplm.evaluate.local import LocalModel

    lm = order_invariant(model, out, is_off=no_invariant).load(out)
    return LocalModel(
        lm,
        model.model,
        cache_bytes=share_of(lm.rt.backend.memory()),
        most_rows=most_rows,
        progress=out.waiting.report,
    )


def served_model(address: str, api_key_file: Path | None, out: Output) -> Subject:
    """The model behind a server."""
    from xplm.evaluate.served import ServedModel
    from xplm.serve.keys import read_key_lines

    key = read_key_lines(api_key_file)[0] if api_key_file else None
    return ServedModel(address, key, progress=out.waiting.report)


def show(
    out: Output, rows: Sequence[Row], subject: Subject, asking: Asking, server: str | None
) -> None:
    """Print the results, and what was run."""
    for line in table_lines(rows):
        out.line(line)
    tally, facts = subject.tally, subject.facts
    kernels = "order-invariant" if facts["is_invariant"] else "not order-invariant"
    place = "" if server is None else f" at {server}"
    out.line(f"{subject.name}{place}: {facts['policy']} on {facts['backend']}, {kernels} kernels")
    out.note(
        f"{tally.tokens_per_s:.1f} tokens/s: {tally.prompt_tokens} of prompts, {tally.reused_tokens} of these reused, "
        f"and {tally.new_tokens} of answers, in {tally.seconds:.1f} s"
    )
    out.result(
        {
            "results": [row._asdict() for row in rows],
            "model": subject.name,
            "server": server,
            **facts,
            **{f.name: getattr(asking, f.name) for f in fields(asking)},
            **{f.name: getattr(tally, f.name) for f in fields(tally)},
            "tokens_per_s": tally.tokens_per_s,
        }
    )


@contextmanager
def library_output(out: Output) -> Iterator[None]:
    """What lm-eval prints does not reach stdout, and what it warns of is a note."""
    logger = logging.getLogger("lm_eval")
    handler = _NoteHandler(out)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logger.propagate = before
        logger.removeHandler(handler)


class _NoteHandler(logging.Handler):
    def __init__(self, out: Output) -> None:
        super().__init__(logging.WARNING)
        self._out = out

    def emit(self, record: logging.LogRecord) -> None:
        self._out.waiting.clear()
        self._out.note(f"lm-eval: {record.getMessage()}")

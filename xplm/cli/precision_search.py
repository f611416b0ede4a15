"""`xplm precision search`: a cheap policy within a budget of loss."""

import sys
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn

from xplm.checkpoint.named import full_name
from xplm.checkpoint.opening import open_checkpoint
from xplm.cli.entry import INTERRUPTED
from xplm.cli.experiment import (
    Characters,
    Figures,
    Model,
    Text,
    encode_text,
    number,
    table,
    write_figures,
)
from xplm.cli.flags import WhereFlags, takes_flags
from xplm.cli.input import read_text
from xplm.cli.output import Output, OutputFlags
from xplm.cli.places import home
from xplm.cli.progress import pull_with_progress
from xplm.generate.perplexity import DEFAULT_WINDOW, fit_window
from xplm.language_model import load_checkpoint
from xplm.numerics.policies import search as searching
from xplm.numerics.policies.cost import PARTS, count_numbers
from xplm.numerics.policies.reading import cut
from xplm.numerics.policies.search import PolicyTrial, make_evaluate
from xplm.precision import Policy

FORMATS = ("fp8", "bf16", "fp16")
HEADINGS = ("policy", "changes", "loss", "over fp32", "MB a token", "")


@takes_flags
def search(
    where: WhereFlags,
    output: OutputFlags,
    text: Text,
    model: Model = "smollm2-135m-instruct:q4_1",
    budget: Annotated[float, typer.Option(help="Nats a token over float32's loss.")] = 0.01,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help=f"May be given several times; if not, {' '.join(FORMATS)}."),
    ] = None,
    parts: Annotated[
        list[str] | None,
        typer.Option("--part", help=f"May be given several times; if not, {' '.join(PARTS)}."),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            help=f"Tokens that are read together; if not given, {DEFAULT_WINDOW}, or the context if smaller."
        ),
    ] = None,
    characters: Characters = None,
    figures: Figures = None,
) -> None:
    """Search greedily for a cheap policy that keeps a text's loss within a budget.

    From float32 throughout, part by part, the one that has most bytes to save first, each format from the narrowest
    on: the first that keeps the loss within the budget stays. The cost of a policy is the bytes that decoding one token
    at a full window handles: parameters once, keys and values, activations, the numbers of each island, partial sums.

    Ctrl-C prints the best policy so far. A format that the backend lacks is emulated, which is slow.

    Example: xplm precision search --text book.txt --budget 0.01 --characters 2000
    """
    out = Output(output)
    formats, parts = list(formats or FORMATS), list(parts or PARTS)
    for short in formats:
        where.runtime(short)  # refuses what is no format, and what the backend lacks
    model = full_name(model)
    path = pull_with_progress(model, home(), out)
    lm = load_checkpoint(where.runtime("fp32"), open_checkpoint(path), progress=out.waiting.report)
    ids = encode_text(lm.tokenizer, read_text(text)[:characters], out)
    window = min(fit_window(window, lm.engine.context), len(ids))
    chunks = cut(lm.engine, ids, window)

    columns = (TextColumn("{task.description}"), BarColumn())
    bar = Progress(*columns, console=out.stderr, transient=True, disable=not out.shows_progress)
    task = bar.add_task("", total=len(chunks))

    def progress(policy: Policy, n_read: int) -> None:
        bar.update(task, completed=n_read, description=str(policy))

    evaluate = make_evaluate(lm.engine, chunks, where.kernel_table, progress)
    settings = {"model": model, "text": text, "budget": budget, "window": window}
    settings |= {"formats": formats, "parts": parts, "kernels": where.kernel_table}
    costs = count_numbers(lm.config, window)
    trials: list[PolicyTrial] = []
    result: dict[str, Any] = {"settings": settings, "policy": None, "trials": []}
    is_done = True
    try:
        with bar:
            for trial in searching.search(
                evaluate, costs, budget=budget, formats=formats, parts=parts
            ):
                trials.append(trial)
                policy, _part, loss, excess, size, kept = cells(trial)
                out.note(f"{policy}: loss {loss} ({excess}), {size} MB a token {kept}")
                result["trials"].append(as_row(trial))
                write_figures(figures, result)
    except KeyboardInterrupt:
        is_done = False
        print("stopped; the best policy so far:", file=sys.stderr)

    out.line(table(HEADINGS, [cells(trial) for trial in trials]))
    if kept_trials := [trial for trial in trials if trial.is_kept]:
        best = kept_trials[-1]
        saved = 1.0 - best.n_bytes / trials[0].n_bytes
        result["policy"] = str(best.policy)
        out.line(f"\n--policy {best.policy}    {saved:.0%} fewer bytes, {best.excess:+.4f} nats")
    write_figures(figures, result)
    out.result(result)
    if not is_done:
        raise typer.Exit(INTERRUPTED)


def as_row(trial: PolicyTrial) -> dict[str, Any]:
    """A trial's figures by name."""
    return trial._asdict() | {"policy": str(trial.policy)}


def cells(trial: PolicyTrial) -> list[str]:
    """A line of the table."""
    return [
        str(trial.policy),
        trial.part,
        number(trial.loss, ".4f"),
        number(trial.excess, "+.4f"),
        number(trial.n_bytes / 1e6, ".4g"),
        "kept" if trial.is_kept else "",
    ]

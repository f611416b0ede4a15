"""`xplm precision sweep`: a text under several policies, token by token beside float32."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from xplm.checkpoint.named import full_name
from xplm.checkpoint.opening import open_checkpoint
from xplm.cli.entry import INTERRUPTED
from xplm.cli.experiment import (
    Characters,
    Figures,
    Model,
    Picture,
    Policies,
    Text,
    check_policies,
    encode_text,
    number,
    require_picture,
    table,
    write_figures,
)
from xplm.cli.flags import ModelFlags, WhereFlags, takes_flags
from xplm.cli.input import read_text
from xplm.cli.output import Output, OutputFlags
from xplm.cli.places import home
from xplm.cli.progress import pull_with_progress
from xplm.errors import RequestError
from xplm.generate.perplexity import fit_window
from xplm.language_model import LanguageModel, load_checkpoint
from xplm.numerics.policies import sweep as sweeping
from xplm.numerics.policies.distance import Tally
from xplm.numerics.policies.picture import draw_sweep
from xplm.numerics.policies.reading import cut

POLICIES = (
    "fp32", "bf16", "bf16,rope=bf16", "bf16,norm=bf16", "bf16,softmax=bf16",
    "fp16", "fp16,norm=fp16",
)  # fmt: skip
"""Three failures, each a word away from what mends it."""

HEADINGS = (
    "policy", "perplexity", "KL", "top-1", "logit error", "drift", "weights MB", "cache MB", "peak MB",
    "tokens/s",
)  # fmt: skip

WINDOW = 1024
Window = Annotated[
    int | None,
    typer.Option(
        help=f"Tokens that are read together; if not given, {WINDOW}, or the context if smaller."
    ),
]


@takes_flags
def sweep(
    where: WhereFlags,
    output: OutputFlags,
    text: Text,
    policies: Policies = None,
    model: Model = "smollm2-135m-instruct:q4_1",
    window: Window = None,
    characters: Characters = None,
    figures: Figures = None,
    png: Picture = None,
) -> None:
    """Read a text under several policies, and compare each with float32, token by token.

    perplexity: of the text, cut into windows that are scored alone.

    KL: of the next token's distribution from float32's, in nats; mean over tokens.

    top-1: share of tokens after which the likeliest next one is float32's.

    logit error: the largest.

    drift: relative error of the residual stream after the last block, mean over tokens.

    MB: parameters and cache in the policy's formats; peak is measured, in a process of its own.

    tokens/s: of a prompt's prefill, a few hundred tokens at a time.

    Policies take turns, so that all have read the same tokens when Ctrl-C ends the sweep.

    Example: xplm precision sweep --text book.txt fp32 bf16 bf16,rope=bf16
    """
    out = Output(output)
    require_picture(png)
    names = check_policies(where, policies or POLICIES)
    model = full_name(model)
    path = pull_with_progress(model, home(), out)
    lm = load_checkpoint(where.runtime("fp32"), open_checkpoint(path), progress=out.waiting.report)
    ids = encode_text(lm.tokenizer, read_text(text)[:characters], out)
    window = fit_window(window, lm.engine.context, WINDOW)
    cut(lm.engine, ids, window)  # refuses a window or a text that is too short
    window = min(window, len(ids))
    peaks = measure_peaks(names, window, path, where, out)

    settings = {"model": model, "text": text, "window": window, "kernels": where.kernel_table}
    result: dict[str, Any] = {}

    def keep(tallies: Mapping[str, Tally]) -> None:
        rows = [
            sweeping.row(lm.engine, name, tally, window) | {"peak_bytes": peaks[name]}
            for name, tally in tallies.items()
        ]
        sizes = {"tokens_in_text": len(ids), "tokens_read": rows[0]["tokens"]}
        result.update({"settings": settings} | sizes | {"policies": rows})
        write_figures(figures, result)

    is_done = measure(lm, names, ids, window, where.kernel_table, out, keep)
    if result:
        write_figures(figures, result)  # writing may be what was interrupted
        out.line(table(HEADINGS, [cells(row) for row in result["policies"]]))
        if png:
            n = f"{result['tokens_read']:,} tokens in windows of {window:,}"
            draw_sweep(png, result["policies"], f"{model}: {n}")
        out.result(result)
    if not is_done:
        read = result.get("tokens_read", 0)
        print(f"stopped after {read:,} of {len(ids):,} tokens", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)


@takes_flags
def peak(model: ModelFlags, output: OutputFlags, window: Window = None) -> None:
    """The peak of memory of this process, once a window of the model's is full."""
    out = Output(output)
    lm = model.load(out, decodes=False)
    n_bytes = sweeping.peak_bytes(lm.engine, fit_window(window, lm.engine.context, WINDOW))
    out.line(str(n_bytes))
    out.result({"peak_bytes": n_bytes})


def measure_peaks(
    policies: Sequence[str], window: int, path: Path, where: WhereFlags, out: Output
) -> dict[str, int]:
    """The peak of each policy, in a process that does nothing else.

    Raises:
        RequestError: such a process was killed.
    """
    peaks = {}
    for policy in policies:
        out.note(f"memory of {policy}")
        command = [sys.executable, "-m", "xplm", "precision", "peak", "--json", "--quiet"]
        command += ["--model", str(path), "--policy", policy, "--window", str(window)]
        command += where.not_default()
        child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if child.returncode < 0:
            raise RequestError(
                f"the memory of {policy} must be measured; signal {-child.returncode} ended the process that did, "
                "as it does where memory runs out; give a smaller --window"
            )
        if child.returncode:
            raise typer.Exit(child.returncode)  # it has said why
        peaks[policy] = json.loads(child.stdout)["peak_bytes"]
    return peaks


def measure(
    lm: LanguageModel,
    policies: Sequence[str],
    ids: list[int],
    window: int,
    kernels: str,
    out: Output,
    keep: Callable[[Mapping[str, Tally]], None],
) -> bool:
    """Read the text under every policy; whether it came to its end."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=out.stderr, transient=True, disable=not out.shows_progress)
    seen = 0
    try:
        with bar:
            task = bar.add_task("reading")
            for progress in sweeping.sweep(
                lm.engine, policies, ids, window=window, kernels=kernels
            ):
                about = f"{progress.policy}, pass {progress.n_read} of {progress.n_chunks}"
                bar.update(
                    task, completed=progress.n_read, total=progress.n_chunks, description=about
                )
                n_tokens = sum(tally.n_tokens for tally in progress.tallies.values())
                if n_tokens > seen:  # all policies have read one more chunk
                    seen = n_tokens
                    keep(progress.tallies)
                    out.note(describe(progress.tallies, len(ids)))
    except KeyboardInterrupt:
        return False
    return True


def describe(tallies: Mapping[str, Tally], n_ids: int) -> str:
    """The progress of a sweep, on one line."""
    n = next(iter(tallies.values())).n_tokens
    figures = ", ".join(f"{name} {tally.mean_kl:.2g}" for name, tally in tallies.items())
    return f"{n:,} of {n_ids:,} tokens; KL: {figures}"


def cells(row: Mapping[str, Any]) -> list[str]:
    """A line of the table."""
    return [
        row["policy"],
        number(row["perplexity"], ".3f"),
        number(row["kl"], ".2e"),
        number(100.0 * row["agreement"], ".1f") + "%",
        number(row["max_logit_error"], ".2g"),
        number(row["drift_by_layer"][-1], ".1e"),
        number(row["param_bytes"] / 1e6, ".0f"),
        number(row["cache_bytes"] / 1e6, ".1f"),
        number(row["peak_bytes"] / 1e6, ".0f"),
        number(row["tokens_per_s"], ".0f"),
    ]

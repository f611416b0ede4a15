"""What each policy spoils, and what it saves: a text under every one, token by token beside float32.

    python scripts/precision_sweep.py --text book.txt --policies bf16 bf16,softmax=bf16 fp16 fp16,norm=fp16

perplexity   of the text, cut into windows that are scored alone
KL           of the next token's distribution from float32's, nats; mean over tokens
top-1        share of tokens after which the likeliest next one is float32's
logit error  the largest
drift        relative error of the residual stream, mean over tokens, after the last block; by layer in the files
MB           parameters and cache in the policy's formats; "peak" is measured, in a process of the policy's own
tokens/s     of a prompt's prefill, a few hundred tokens at a time

Policies take turns, so that all have read the same tokens whenever it ends: Ctrl-C prints and keeps the figures so far.
Exit codes: 0 done, 2 bad input, 130 interrupted.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from xplm.cli import experiment
from xplm.cli.input import read_text
from xplm.cli.output import Output
from xplm.cli.places import home
from xplm.cli.progress import pull_with_progress
from xplm.errors import RequestError
from xplm.language_model import LanguageModel, load
from xplm.numerics.policies.distance import Tally
from xplm.numerics.policies.picture import draw_sweep
from xplm.numerics.policies.reading import cut
from xplm.numerics.policies.sweep import peak_bytes, row, sweep

POLICIES = (
    "fp32", "bf16", "bf16,rope=bf16", "bf16,norm=bf16", "bf16,softmax=bf16",
    "fp16", "fp16,norm=fp16",
)  # fmt: skip
"""Three failures, each a word away from what mends it."""

HEADINGS = (
    "policy", "perplexity", "KL", "top-1", "logit error", "drift", "weights MB", "cache MB", "peak MB",
    "tokens/s",
)  # fmt: skip


def parse() -> argparse.Namespace:
    """The command line."""
    parser = experiment.make_parser(__doc__)
    experiment.add_picture(parser)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a name or a path")
    parser.add_argument("--text", required=True, metavar="FILE", help="UTF-8; - reads stdin")
    parser.add_argument("--policies", nargs="+", default=POLICIES, metavar="POLICY")
    parser.add_argument("--window", type=int, default=1024, help="tokens that are read together")
    parser.add_argument("--characters", type=int, help="the first so many of the text")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure_peaks(policies: list[str], window: int, show: Output) -> dict[str, int]:
    """The peak of each policy, in a process that does nothing else."""
    peaks = {}
    for policy in policies:
        show.note(f"memory of {policy}")
        command = [sys.executable, *sys.argv, "--window", str(window), "--peak-of", policy]
        child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if child.returncode < 0:
            raise RequestError(
                f"the memory of {policy} must be measured; signal {-child.returncode} ended the process that did, "
                "as it does where memory runs out; give a smaller --window"
            )
        if child.returncode:
            sys.exit(child.returncode)  # it has said why
        peaks[policy] = json.loads(child.stdout)
    return peaks


def measure(
    given: argparse.Namespace, lm: LanguageModel, ids: list[int], show: Output, keep: Any
) -> bool:
    """Read the text under every policy; whether it came to its end."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=show.stderr, transient=True, disable=not show.shows_progress)
    seen = 0
    try:
        with bar:
            task = bar.add_task("reading")
            for progress in sweep(
                lm.engine, given.policies, ids, window=given.window, kernels=given.kernels
            ):
                about = f"{progress.policy}, pass {progress.n_read} of {progress.n_chunks}"
                bar.update(
                    task, completed=progress.n_read, total=progress.n_chunks, description=about
                )
                n_tokens = sum(tally.n_tokens for tally in progress.tallies.values())
                if n_tokens > seen:  # all policies have read one more chunk
                    seen = n_tokens
                    keep(progress.tallies)
                    show.note(describe(progress.tallies, len(ids)))
    except KeyboardInterrupt:
        return False
    return True


def describe(tallies: Mapping[str, Tally], n_ids: int) -> str:
    """How far a sweep is, on one line."""
    n = next(iter(tallies.values())).n_tokens
    figures = ", ".join(f"{name} {tally.mean_kl:.2g}" for name, tally in tallies.items())
    return f"{n:,} of {n_ids:,} tokens; KL: {figures}"


def print_rows(rows: list[dict[str, Any]]) -> None:
    """The table."""
    number = experiment.number
    cells = [
        [
            r["policy"],
            number(r["perplexity"], ".3f"),
            number(r["kl"], ".2e"),
            number(100.0 * r["agreement"], ".1f") + "%",
            number(r["max_logit_error"], ".2g"),
            number(r["drift_by_layer"][-1], ".1e"),
            number(r["param_bytes"] / 1e6, ".0f"),
            number(r["cache_bytes"] / 1e6, ".1f"),
            number(r["peak_bytes"] / 1e6, ".0f"),
            number(r["tokens_per_s"], ".0f"),
        ]
        for r in rows
    ]
    experiment.print_table(HEADINGS, cells)


def main() -> int:
    """Measure, write, print."""
    given = parse()
    place, show = experiment.where(given), experiment.output(given)
    experiment.require_picture(given.png)
    policies = experiment.policies(place, given.policies)
    path = pull_with_progress(given.model, home(), show)
    if given.peak_of:
        lm = load(path, given.device, given.peak_of, given.backend, given.kernels)
        print(peak_bytes(lm.engine, given.window))
        return 0

    lm = load(path, given.device, "fp32", given.backend, given.kernels)
    text = read_text(given.text)[: given.characters]
    ids = lm.tokenizer.encode(text)
    window = min(given.window, len(ids))
    cut(lm.engine, ids, given.window)  # refuses a window or a text that is too short
    peaks = measure_peaks(policies, window, show)
    rows: list[dict[str, Any]] = []

    def write() -> None:
        settings = {k: v for k, v in vars(given).items() if k not in ("json", "png", "peak_of")}
        sizes = {"tokens_in_text": len(ids), "tokens_read": rows[0]["tokens"]}
        experiment.write_figures(given.json, {"settings": settings} | sizes | {"policies": rows})

    def keep(tallies: Mapping[str, Tally]) -> None:
        rows[:] = [
            row(lm.engine, name, tally, window) | {"peak_bytes": peaks[name]}
            for name, tally in tallies.items()
        ]
        write()

    is_done = measure(given, lm, ids, show, keep)
    if rows:
        write()  # what the table shows, should writing have been what was interrupted
        print_rows(rows)
        if given.png:
            n = f"{rows[0]['tokens']:,} tokens in windows of {window:,}"
            draw_sweep(given.png, rows, f"{given.model}: {n}")
    if not is_done:
        print(
            f"stopped after {rows[0]['tokens'] if rows else 0:,} of {len(ids):,} tokens",
            file=sys.stderr,
        )
    return 0 if is_done else experiment.INTERRUPTED


if __name__ == "__main__":
    experiment.run(main)

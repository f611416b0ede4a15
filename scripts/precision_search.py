"""The cheapest policy within a budget of loss, printed as a text that `--policy` takes.

    python scripts/precision_search.py --text book.txt --budget 0.01 --characters 2000

From float32 throughout, part by part, the one that has most bytes to save first, each format from the narrowest on: the
first that keeps the loss on the text within the budget (nats a token over float32's) stays. What a policy costs is the
bytes that decoding one token at a full window handles: parameters once, keys and values, activations, the numbers of
each island, partial sums; every number with the bits of its format. `xplm/numerics/policies/cost.py` has the formulas.

Each trial is shown. Ctrl-C prints the best policy so far. A format that the backend lacks is emulated, and `accumulate`
always: both are slow. Exit codes: 0 done, 2 bad input, 130 interrupted.
"""

import argparse
import sys
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn

from xplm.cli import experiment
from xplm.cli.input import read_text
from xplm.cli.places import home
from xplm.cli.progress import pull_with_progress
from xplm.language_model import load
from xplm.numerics.policies.cost import PARTS, count_numbers
from xplm.numerics.policies.reading import cut
from xplm.numerics.policies.search import Trial, make_evaluate, search
from xplm.precision import Policy

HEADINGS = ("policy", "changes", "loss", "over fp32", "MB a token", "")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = experiment.make_parser(__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a name or a path")
    parser.add_argument("--text", required=True, metavar="FILE", help="UTF-8; - reads stdin")
    parser.add_argument("--budget", type=float, default=0.01, help="nats a token over fp32's loss")
    parser.add_argument("--formats", nargs="+", default=["fp8", "bf16", "fp16"], metavar="FORMAT")
    parser.add_argument("--parts", nargs="+", default=PARTS, metavar="PART", help="may change")
    parser.add_argument("--window", type=int, default=512, help="tokens that are read together")
    parser.add_argument("--characters", type=int, help="the first so many of the text")
    return parser.parse_args()


def as_row(trial: Trial) -> dict[str, Any]:
    """A trial's figures by name."""
    return trial._asdict() | {"policy": str(trial.policy)}


def cells(trial: Trial) -> list[str]:
    """A line of the table."""
    number = experiment.number
    return [
        str(trial.policy),
        trial.part,
        number(trial.loss, ".4f"),
        number(trial.excess, "+.4f"),
        number(trial.n_bytes / 1e6, ".4g"),
        "kept" if trial.is_kept else "",
    ]


def main() -> int:
    """Search, write, print."""
    given = parse()
    place, show = experiment.where(given), experiment.output(given)
    for short in given.formats:
        place.runtime(short)  # refuses what is no format, and what the backend lacks
    path = pull_with_progress(given.model, home(), show)
    lm = load(path, given.device, "fp32", given.backend, given.kernels)
    ids = lm.tokenizer.encode(read_text(given.text)[: given.characters])
    window = min(given.window, len(ids))
    chunks = cut(lm.engine, ids, window)

    columns = (TextColumn("{task.description}"), BarColumn())
    bar = Progress(*columns, console=show.stderr, transient=True, disable=not show.shows_progress)
    task = bar.add_task("", total=len(chunks))

    def progress(policy: Policy, n_read: int) -> None:
        bar.update(task, completed=n_read, description=str(policy))

    evaluate = make_evaluate(lm.engine, chunks, given.kernels, progress)
    settings = {key: value for key, value in vars(given).items() if key != "json"}
    trials: list[Trial] = []
    is_done = True
    try:
        with bar:
            for trial in search(
                evaluate,
                count_numbers(lm.config, window),
                budget=given.budget,
                formats=given.formats,
                parts=given.parts,
            ):
                trials.append(trial)
                policy, _part, loss, excess, size, kept = cells(trial)
                show.note(f"{policy}: loss {loss} ({excess}), {size} MB a token {kept}")
                rows = [as_row(t) for t in trials]
                experiment.write_figures(given.json, {"settings": settings, "trials": rows})
    except KeyboardInterrupt:
        is_done = False
        print("stopped; the best policy so far:", file=sys.stderr)

    experiment.print_table(HEADINGS, [cells(trial) for trial in trials])
    if kept := [trial for trial in trials if trial.is_kept]:
        saved = 1.0 - kept[-1].n_bytes / trials[0].n_bytes
        print(
            f"\n--policy {kept[-1].policy}    {saved:.0%} fewer bytes, {kept[-1].excess:+.4f} nats"
        )
    return 0 if is_done else experiment.INTERRUPTED


if __name__ == "__main__":
    experiment.run(main)

"""How fast matrix products are, as xplm cuts them, beside the same library's own call on as many threads.

    pip install ".[mkl]"
    python scripts/bench_products.py [--only PART ...] [--cycles 5] [--out runs/bench-products]

    prompt     the products of SmolLM2-135M, for prompts of 32 to 2048 tokens
    step       those of a training step, forward and back, of models of width 384, 288 and 128

Every system runs in a process of its own; they take turns, A B C C B A. The directory gets turns.jsonl (every
measurement; a run that was cut off goes on from it), table.md and figures.json. Exit codes: 0 every threshold is met, 1
one is missed, 2 bad usage or a system that failed, 130 interrupted.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.processes import Worker, own_stdout, serve
from bench.products import BLAS, ITSELF, OURS, SHAPES, make_multiplier, system_names
from bench.run import add_run_flags, finish, guarded, open_log
from bench.turns import Log, Turn, of, ratio, take_turns
from bench.verdicts import Row, row

SCRIPT = str(Path(__file__).resolve())
LEAST = 0.95  # times the library's own call


def measure(plan: argparse.Namespace, log: Log, part: str) -> None:
    """Have the systems take turns."""
    n_turns = 2 * plan.cycles
    if len(log.turns(part)) >= n_turns:
        return
    workers = {}
    for name in system_names():
        options = json.dumps({"name": name, "threads": plan.threads})
        workers[name] = Worker([SCRIPT, "--serve", options], plan.threads)
    log.add({"systems": {name: worker.description for name, worker in workers.items()}})
    measures = {name: lambda _, worker=worker: worker.ask(part) for name, worker in workers.items()}
    take_turns(log, part, measures, n_turns)
    for worker in workers.values():
        worker.stop()


def speeds_table(turns: Sequence[Turn], part: str) -> str:
    """GFLOP/s of every system, a line a shape."""
    lines = [f"| GFLOP/s | {' | '.join(turns[0])} |", "|---|" + "---|" * len(turns[0])]
    for shape in map(str, SHAPES[part]):
        spreads = [of(turns, name, shape) for name in turns[0]]
        cells = [f"{s.median / 1e9:.0f} ({s.low / 1e9:.0f} to {s.high / 1e9:.0f})" for s in spreads]
        lines.append(f"| {shape} | {' | '.join(cells)} |")
    return "\n".join(lines)


def judge(turns: Sequence[Turn], part: str) -> list[Row]:
    """What xplm reaches of the library's own call, shape by shape."""
    rows = []
    for shape in map(str, SHAPES[part]):
        for library in BLAS:
            ours, itself = OURS.format(library), ITSELF.format(library)
            if ours in turns[0]:
                share = ratio(turns, ours, itself, shape)
                rows.append(row(f"{shape}, {ours} / {itself}", share, ">=", LEAST))
    return rows


def main() -> int:
    """Measure, judge, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_run_flags(parser, tuple(SHAPES), tuple(SHAPES), "runs/bench-products")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    plan = parser.parse_args()
    if plan.serve:
        from xplm.cli.process import tune_process

        answers = own_stdout()
        tune_process()  # as the `xplm` command's
        serve(answers, *make_multiplier(json.loads(plan.serve)))
        return 0

    log, _ = open_log(plan, {"threads": plan.threads})
    for part in plan.only:
        measure(plan, log, part)
    rows, tables = [], []
    for part in SHAPES:
        if turns := log.turns(part):
            tables.append(speeds_table(turns, part))
            rows += judge(turns, part)
    systems = "\n".join(f"{k}: {v}" for k, v in (log.note("systems") or {}).items())
    return finish(plan.out, [systems, *tables], rows)


if __name__ == "__main__":
    sys.exit(guarded(main))

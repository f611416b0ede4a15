"""How xplm's costs grow: time and memory, measured at several sizes, and the exponents that fit them.

    python scripts/bench_scaling.py [--only PART ...] [--cycles 3] [--model NAME] [--out runs/bench-scaling]

    decode     a token, against the context before it
    prefill    a prompt, against its length
    width      a training step, against the width of the model
    depth      a training step, against its number of layers

Each size has a process of its own; they take turns, up and down. Memory is the most that a process took beyond what it
had before there was a model. The model that generates is a small one with random
weights unless one is named. The directory gets turns.jsonl (every measurement; a run that was cut off goes on from it),
table.md, figures.json and figures.png, which has the exponents. Nothing is judged. Exit codes: 0 done, 2 bad usage or a
size that failed, 130 interrupted.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from bench.growth import Growth, fit_growth
from bench.processes import Worker, own_stdout, serve
from bench.run import add_run_flags, add_where_flags, finish, guarded, open_log
from bench.scaling import SWEEPS, make_point
from bench.scaling_plot import draw
from bench.turns import MEASURED_SECONDS, Log, of, take_turns
from bench.verdicts import Row, row

SCRIPT = str(Path(__file__).resolve())


def measure(plan: argparse.Namespace, log: Log, name: str, seed: int) -> None:
    """Have the sizes of a sweep take turns."""
    n_turns = 2 * plan.cycles
    if len(log.turns(name)) >= n_turns:
        return

    def start(size: int) -> Worker:
        options = {"sweep": name, "size": size, "seed": seed}
        options |= {"model": plan.model, "kernels": plan.kernels}
        options |= {"device": plan.device, "backend": plan.backend}
        return Worker([SCRIPT, "--serve", json.dumps(options)], plan.threads)

    sizes = SWEEPS[name].sizes
    compiling = start(sizes[0])  # which takes memory too: in a process that does not count
    compiling.ask(0)
    compiling.stop()
    workers = {str(size): start(size) for size in sizes}
    take_turns(log, name, {size: worker.ask for size, worker in workers.items()}, n_turns)
    for worker in workers.values():
        worker.stop()


def costs(log: Log, name: str, figure: str) -> dict[int, float]:
    """The median at each size."""
    turns = log.turns(name)
    return {int(size): of(turns, size, figure).median for size in turns[0]}


def list_rows(log: Log, name: str, growth: Mapping[str, Growth]) -> list[Row]:
    """Figures of a sweep."""
    sweep, turns, rows = SWEEPS[name], log.turns(name), []
    for size in turns[0]:
        what = f"{name}, {sweep.size} {size}"
        rows.append(row(f"{what}: {sweep.cost}", of(turns, size, "seconds")))
        rows.append(Row(f"{what}: MB", of(turns, size, "added_bytes").median / 1e6))
    for figure, (exponent, upper) in growth.items():
        rows.append(Row(f"{name}: {figure} grow as {sweep.size} to the power of", exponent))
        rows.append(Row(f"{name}: {figure}, the larger half of the sizes", upper))
    return rows


def main() -> int:
    """Measure, fit, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_run_flags(parser, tuple(SWEEPS), tuple(SWEEPS), "runs/bench-scaling")
    parser.set_defaults(cycles=3)
    add_where_flags(parser)
    parser.add_argument("--model", default="", help="a name or a path; of decode and prefill")
    parser.add_argument("--kernels", choices=("fused", "portable"), default="fused")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    plan = parser.parse_args()
    if plan.serve:
        answers = own_stdout()
        serve(answers, *make_point(json.loads(plan.serve)))
        return 0

    settings = {"model": plan.model, "threads": plan.threads, "kernels": plan.kernels}
    settings |= {"seconds": MEASURED_SECONDS, "device": plan.device, "backend": plan.backend}
    log, seed = open_log(plan, settings)
    for name in plan.only:
        measure(plan, log, name, seed)
    measured = [name for name in SWEEPS if log.turns(name)]
    seconds = {name: costs(log, name, "seconds") for name in measured}
    memory = {name: costs(log, name, "added_bytes") for name in measured}
    rows = []
    growth = {name: fit_growth(seconds[name]) for name in measured}
    for name in measured:
        rows += list_rows(log, name, {"seconds": growth[name], "bytes": fit_growth(memory[name])})
    title = f"{plan.model or 'small models, random weights'}, threads: {plan.threads}, kernels: {plan.kernels}"
    draw(plan.out / "figures.png", seconds, memory, growth, title)
    return finish(plan.out, [], rows)


if __name__ == "__main__":
    sys.exit(guarded(main))

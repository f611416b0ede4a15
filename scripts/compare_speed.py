"""Is a change as fast?   python scripts/compare_speed.py --before DIRECTORY [--cycles 8] [--out runs/compare-speed]

Two checkouts, the one before and this tree, take turns, each in its own process: seconds of a decoded token and of
a prompt of 256 tokens (SmolLM2, fp32), and of a training step (d384). What is reported is the median of the ratios,
after over before, with quartiles; each must be at most 1.05. Exit codes: 0 all are, 1 some are not, 2 bad usage, 130
interrupted.
"""

import argparse
import os
import sys
from pathlib import Path

from bench.processes import Worker
from bench.run import add_where_flags, finish, guarded, open_log
from bench.turns import of, ratio, take_turns
from bench.verdicts import Row, row

SCRIPTS = Path(__file__).resolve().parent
FIGURES = ("decode", "prefill", "step")
SLOWER = 1.05


def main() -> int:
    """Take turns, and judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, required=True, help="another checkout")
    parser.add_argument("--model", default="smollm2-135m-instruct:q4_1")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cycles", type=int, default=8, help="of A B B A")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--out", type=Path, default=Path("runs/compare-speed"))
    add_where_flags(parser)
    plan = parser.parse_args()
    log, seed = open_log(plan, {"before": str(plan.before.resolve()), "model": plan.model})
    trees = {"before": plan.before.resolve(), "after": SCRIPTS.parent}
    workers = {}
    for name, tree in trees.items():
        paths = os.pathsep.join(map(str, (tree / "scripts", tree, tree / "backends")))
        command = [
            "-P",
            str(SCRIPTS / "bench" / "speed_worker.py"),
            plan.model,
            str(seed),
            plan.device,
        ]
        command += [plan.backend] if plan.backend else []
        workers[name] = Worker(command, plan.threads, PYTHONPATH=paths)
        print(f"{name}: {workers[name].description}", file=sys.stderr)
    take_turns(log, "speed", {n: worker.ask for n, worker in workers.items()}, 2 * plan.cycles)
    for worker in workers.values():
        worker.stop()

    turns = log.turns("speed")
    rows: list[Row] = []
    for figure in FIGURES:
        rows += [row(f"{figure}, s, {name}", of(turns, name, figure)) for name in trees]
        rows.append(row(f"{figure}, ratio", ratio(turns, "after", "before", figure), "<=", SLOWER))
    return finish(plan.out, [f"{len(turns)} turns"], rows)


if __name__ == "__main__":
    sys.exit(guarded(main))

"""How fast xplm trains beside PyTorch and RustGPT, in float32.

    pip install ".[reference]"
    python scripts/bench_train.py [--only PART ...] [--compile] [--cycles 5] [--out runs/bench-train]
    python scripts/bench_train.py --only shakespeare facts --data tinyshakespeare.txt --facts DIRECTORY

    d384 d288 d128    a step (forward, backward, clipping, AdamW) of a new model, beside torch's, eager and compiled
    finetune          the same from the weights of SmolLM2-135M-Instruct in Q4_1
    shakespeare       `xplm train` as a whole process until its validation loss is 1.88, beside the 2000 steps of
                      nanoGPT's recipe at what a step takes in torch
    facts             both phases of RustGPT's job as whole processes, beside RustGPT's own time

Both train from the same weights on the same ids, each in a process of its own; no time counts until they have given
the same loss at the first step. Then they take turns, A B C C B A; a whole process has a new seed in each turn. The
directory gets turns.jsonl (every measurement; a run that was cut off goes on from it), table.md and figures.json. Exit
codes: 0 every threshold is met, 1 one is missed or the first losses differ, 2 bad usage or a system that failed, 130
interrupted.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.processes import Worker, own_stdout, serve
from bench.run import add_run_flags, add_where_flags, finish, guarded, open_log
from bench.steps import SHAPES, Step, make_torch_step, make_xplm_step
from bench.train_processes import WHOLE, judge_whole, measure_whole
from bench.turns import MEASURED_SECONDS, Figures, Log, Turn, of, ratio, repeated, take_turns
from bench.verdicts import Row, row

from xplm.cli.process import tune_process

SCRIPT = str(Path(__file__).resolve())
SYSTEMS = ("xplm, fused kernels", "xplm, portable kernels", "torch eager")
XPLM, EAGER, COMPILED = SYSTEMS[0], SYSTEMS[2], "torch.compile"
SAME_LOSS = 1e-4  # relative: float32 sums of a few million terms in another order
LEAST = {  # times as fast as each
    "d384": {EAGER: 1.5, COMPILED: 1.35},
    "d288": {EAGER: 1.4},
    "d128": {EAGER: 1.4},
    "finetune": {EAGER: 1.2},
}


def serve_steps(options: Mapping[str, Any]) -> None:
    """Inside a system's process: a step for every request."""
    answers = own_stdout()
    tune_process()  # every system's, as the `xplm` command's
    name, shape, seed = options["name"], SHAPES[options["part"]], options["seed"]
    if name.startswith("xplm"):
        where = options["device"], options["backend"]
        step: Step = make_xplm_step(shape, name.split()[1], seed, *where)
    else:
        compiles = name == COMPILED
        step = make_torch_step(shape, options["threads"], compiles, seed, options["device"])
    serve(answers, name, partial(time_step, step))


def time_step(step: Step, request: Any) -> Figures:
    """The next step's loss, and what a step takes."""
    losses, seconds = repeated(step)
    return {"loss": losses[0], "step_s": seconds}


def has_compiler() -> bool:
    """Whether there is what torch.compile needs."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))


def measure_steps(plan: argparse.Namespace, log: Log, part: str, seed: int) -> None:
    """Have the systems take steps in turn."""
    n_turns = 2 * plan.cycles
    if len(log.turns(part)) >= n_turns:
        return
    workers = {}
    for name in (*SYSTEMS, COMPILED) if plan.compile else SYSTEMS:
        options = {"name": name, "part": part, "threads": plan.threads, "seed": seed}
        options |= {"device": plan.device, "backend": plan.backend}
        workers[name] = Worker([SCRIPT, "--serve", json.dumps(options)], plan.threads)
    losses = {name: worker.ask(None)["loss"] for name, worker in workers.items()}
    if not are_same(losses):
        print(f"error: the first losses of {part} differ: {losses}", file=sys.stderr)
        sys.exit(1)
    take_turns(log, part, {name: worker.ask for name, worker in workers.items()}, n_turns)
    for worker in workers.values():
        worker.stop()


def are_same(losses: Mapping[str, float]) -> bool:
    """Whether first losses are torch's, up to rounding; NaN never is."""
    expected = losses[EAGER]
    return all(abs(loss - expected) <= SAME_LOSS * abs(expected) for loss in losses.values())


def judge_steps(turns: Sequence[Turn], part: str) -> list[Row]:
    """How many times as fast as each other system, and what a step takes in each."""
    rows = []
    for name in turns[0]:
        rows.append(row(f"{part}, {name}: seconds a step", of(turns, name, "step_s")))
    for name in turns[0]:
        if name != XPLM:
            least = LEAST[part].get(name)
            sense, times = ">=" if least else "", ratio(turns, name, XPLM, "step_s")
            rows.append(row(f"{part}, speed, {XPLM} / {name}", times, sense, least or 0.0))
    return rows


def main() -> int:
    """Measure, judge, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_run_flags(parser, (*SHAPES, *WHOLE), tuple(SHAPES), "runs/bench-train")
    add_where_flags(parser)
    parser.add_argument("--compile", action="store_true", help="torch.compile, too")
    parser.add_argument("--runs", type=int, default=3, help="of each whole process, a seed each")
    parser.add_argument("--data", type=Path, help="tinyshakespeare.txt")
    parser.add_argument("--facts", type=Path, help="the directory of RustGPT's two JSON files")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    plan = parser.parse_args()
    if plan.serve:
        serve_steps(json.loads(plan.serve))
        return 0
    for part, path in {"shakespeare": plan.data, "facts": plan.facts}.items():
        if part in plan.only and path is None:
            parser.error(f"the part {part} needs --{'data' if part == 'shakespeare' else part}")
    if plan.compile and not has_compiler():
        print(
            "torch.compile needs a C++ compiler (g++ or clang++), and is left out", file=sys.stderr
        )
        plan.compile = False

    settings = {"threads": plan.threads, "compile": plan.compile, "seconds": MEASURED_SECONDS}
    settings |= {"device": plan.device, "backend": plan.backend}
    log, seed = open_log(plan, settings)
    for part in plan.only:
        if part in WHOLE:
            measure_whole(plan, log, part)
        else:
            measure_steps(plan, log, part, seed)
    rows = []
    for part in SHAPES:
        if turns := log.turns(part):
            rows += judge_steps(turns, part)
    for part in WHOLE:
        if turns := log.turns(part):
            rows += judge_whole(turns, part)
    return finish(plan.out, [], rows)


if __name__ == "__main__":
    sys.exit(guarded(main))

"""How fast xplm trains beside PyTorch and RustGPT.

    pip install ".[reference]"
    python scripts/bench_train.py [--only PART ...] [--compile] [--cycles 5] [--out runs/bench-train]
    python scripts/bench_train.py --only shakespeare facts --data tinyshakespeare.txt --facts DIRECTORY

    d384 d288 d128    a step (forward, backward, clipping, AdamW) of a new model, beside torch's, eager and compiled;
                      xplm by the library that it chooses for products (".[mkl]" lets it), and by OpenBLAS
    d384-bf16         the same under the policy bf16, beside torch's autocast
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
from bench.steps import SHAPES, TakeStep, make_torch_step, make_xplm_step
from bench.train_processes import WHOLE, judge_whole, measure_whole
from bench.turns import MEASURED_SECONDS, Figures, Log, Turn, of, ratio, repeated, take_turns
from bench.verdicts import Row, row
from xplm_numpy.choice import INSTRUCTIONS, features
from xplm_numpy.libraries import BFLOAT16, mkl_file

from xplm.cli.process import tune_process

SCRIPT = str(Path(__file__).resolve())
XPLM, OPENBLAS, PORTABLE = "xplm, fused kernels", "xplm, openblas", "xplm, portable kernels"
EAGER, COMPILED = "torch eager", "torch.compile"
SYSTEMS = (XPLM, OPENBLAS, PORTABLE, EAGER)
OURS = {XPLM: ("fused", None), OPENBLAS: ("fused", "openblas"), PORTABLE: ("portable", None)}
"""Kernels and library of each of xplm's systems."""

SAME_LOSS = {"fp32": 1e-4, "bf16": 1e-2}
"""Relative: float32 sums of a few million terms in another order; activations of 8 bits, rounded in other places."""

WITHOUT_MKL = {"d384": 0.95, "d288": 0.95, "d128": 1.2}
WITH_MKL = {"d384": 1.1, "d288": 1.1, "d128": 1.3}
"""Times as fast as torch, by OpenBLAS and by the library that is chosen where MKL is installed."""

WITH_EITHER = {"finetune": {EAGER: 1.2}, "d384": {COMPILED: 1.35}}
"""The same by the library that is chosen, whichever it is."""

NARROW = {"d384-bf16": 0.9}
"""Times as fast as torch where MKL is installed and the processor multiplies bfloat16."""


def multiplies_bfloat16() -> bool:
    """Whether this processor does."""
    return bool(INSTRUCTIONS[BFLOAT16] & features())


def default_parts() -> tuple[str, ...]:
    """All steps but those in bfloat16 where the processor lacks it: there, torch takes a minute for one."""
    return tuple(part for part in SHAPES if part not in NARROW or multiplies_bfloat16())


def least_speed(part: str, ours: str, other: str) -> float | None:
    """Times as fast as another system that one of xplm's must be, here; None where nothing is asked."""
    if ours == XPLM and (least := WITH_EITHER.get(part, {}).get(other)) is not None:
        return least
    if ours == PORTABLE or other != EAGER:
        return None
    if ours == OPENBLAS or mkl_file() is None:
        return WITHOUT_MKL.get(part)
    return (WITH_MKL | (NARROW if multiplies_bfloat16() else {})).get(part)


def serve_steps(options: Mapping[str, Any]) -> None:
    """Inside a system's process: a step for every request."""
    answers = own_stdout()
    tune_process()  # every system's, as the `xplm` command's
    name, shape, seed = options["name"], SHAPES[options["part"]], options["seed"]
    if name in OURS:
        where = options["device"], options["backend"]
        step: TakeStep = make_xplm_step(shape, *OURS[name], seed, *where)
    else:
        compiles = name == COMPILED
        step = make_torch_step(shape, options["threads"], compiles, seed, options["device"])
    serve(answers, name, partial(time_step, step))


def time_step(step: TakeStep, request: Any) -> Figures:
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
    is_numpy = plan.device == "cpu" and plan.backend in (None, "numpy")
    systems = [name for name in SYSTEMS if is_numpy or name != OPENBLAS]
    for name in (*systems, COMPILED) if plan.compile else systems:
        options = {"name": name, "part": part, "threads": plan.threads, "seed": seed}
        options |= {"device": plan.device, "backend": plan.backend}
        workers[name] = Worker([SCRIPT, "--serve", json.dumps(options)], plan.threads)
    losses = {name: worker.ask(None)["loss"] for name, worker in workers.items()}
    if not are_same(losses, SAME_LOSS[SHAPES[part].policy]):
        print(f"error: the first losses of {part} differ: {losses}", file=sys.stderr)
        sys.exit(1)
    take_turns(log, part, {name: worker.ask for name, worker in workers.items()}, n_turns)
    for worker in workers.values():
        worker.stop()


def are_same(losses: Mapping[str, float], tolerance: float) -> bool:
    """Whether first losses are torch's, up to rounding; NaN never is."""
    expected = losses[EAGER]
    return all(abs(loss - expected) <= tolerance * abs(expected) for loss in losses.values())


def judge_steps(turns: Sequence[Turn], part: str) -> list[Row]:
    """How many times as fast as torch each of xplm's systems is, and what a step takes in each."""
    rows = [row(f"{part}, {name}: seconds a step", of(turns, name, "step_s")) for name in turns[0]]
    for ours in (name for name in turns[0] if name in OURS):
        for other in (name for name in turns[0] if name not in OURS):
            asked = least_speed(part, ours, other)
            times = ratio(turns, other, ours, "step_s")
            sense = ">=" if asked else ""
            rows.append(row(f"{part}, speed, {ours} / {other}", times, sense, asked or 0.0))
    return rows


def main() -> int:
    """Measure, judge, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_run_flags(parser, (*SHAPES, *WHOLE), default_parts(), "runs/bench-train")
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

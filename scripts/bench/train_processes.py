"""What bench_train.py measures of whole processes: how long it takes to learn as much as another system."""

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from math import nan
from pathlib import Path
from time import perf_counter, sleep

from bench.processes import run_to_end, start
from bench.recipe_runs import RECIPES, SCRIPTS, run_facts, train_command
from bench.run import where_flags
from bench.turns import Figures, Log, Turn, of, ratio, spread, take_turns
from bench.verdicts import Row, row

LOSS = 1.88  # of nanoGPT's recipe after its last step; validation, nats a character
NANOGPT_STEPS = 2000
TORCH_STEPS = 100  # timed
MOST_TIME = {"shakespeare": 0.35, "facts": 0.4}  # times the other system's
LEAST_RECALLED = 52  # of 53 answers
RUSTGPT_SECONDS = 11.4
"""Of both phases: the shortest of several runs of its release build, on one core of a machine with AVX-512."""

POLL_SECONDS = 0.01


def measure_whole(plan: argparse.Namespace, log: Log, part: str) -> None:
    """Take the turns of a part: a seed each."""
    measures: dict[str, dict[str, Callable[[int], Figures]]] = {
        "shakespeare": {
            "xplm": partial(learn_characters, plan),
            "torch": partial(time_nanogpt, plan),
        },
        "facts": {"xplm": partial(learn_facts, plan)},
    }
    take_turns(log, part, measures[part], plan.runs, warm_up=False)


def learn_characters(plan: argparse.Namespace, turn: int) -> Figures:
    """Seconds from the start of the process until its validation loss is LOSS; NaN if it never is."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        recipe = RECIPES / "shakespeare-char.toml"
        flags = ("--seed", str(turn + 1), *where_flags(plan))
        command = train_command(recipe, plan.data, out, plan.threads, *flags)
        started = perf_counter()
        process = start(command, plan.threads)
        while process.poll() is None and not has_learned(out / "metrics.jsonl", LOSS):
            sleep(POLL_SECONDS)
        seconds = perf_counter() - started
        learned = has_learned(out / "metrics.jsonl", LOSS)
        process.kill()
        process.communicate()
    return {"process_s": seconds if learned else nan}


def has_learned(metrics: Path, loss: float) -> bool:
    """Whether a run's file of metrics has a validation loss of at most that."""
    if not metrics.exists():
        return False
    lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return any(line["val_loss"] is not None and line["val_loss"] <= loss for line in whole)


def time_nanogpt(plan: argparse.Namespace, turn: int) -> Figures:
    """Seconds of all steps of nanoGPT's recipe in torch, from the median of some; no evaluation, and no start."""
    flags = ["--set", "model.arch=gpt", "--set", f"train.seed={turn + 1}"]
    where = ["--data", str(plan.data), "--threads", str(plan.threads)]
    command = [str(SCRIPTS / "torch_twin.py"), str(RECIPES / "shakespeare-char.toml"), *flags]
    done = run_to_end([*command, *where, "--steps", str(TORCH_STEPS)], plan.threads)
    return {"process_s": NANOGPT_STEPS * done.result["step_seconds"]}


def learn_facts(plan: argparse.Namespace, turn: int) -> Figures:
    """Both phases, and how many answers they taught."""
    with tempfile.TemporaryDirectory() as folder:
        run = run_facts(
            plan.facts,
            Path(folder),
            arch="llama",
            seed=turn + 1,
            threads=plan.threads,
            where=where_flags(plan),
        )
    return {"process_s": run["seconds"], "recalled": run["recalled"]}


def judge_whole(turns: Sequence[Turn], part: str) -> list[Row]:
    """Seconds beside the other system's."""
    rows = [row(f"{part}, {name}: seconds", of(turns, name, "process_s")) for name in turns[0]]
    if part == "shakespeare":
        times = ratio(turns, "xplm", "torch", "process_s")
        what = f"{part}, time to loss {LOSS}, xplm / {NANOGPT_STEPS} steps in torch"
        return [*rows, row(what, times, "<=", MOST_TIME[part])]
    recalled = min(turn["xplm"]["recalled"] for turn in turns)
    times = spread(turn["xplm"]["process_s"] / RUSTGPT_SECONDS for turn in turns)
    return [
        *rows,
        Row(f"{part}, fewest answers recalled", recalled, ">=", LEAST_RECALLED),
        row(f"{part}, time, xplm / RustGPT's {RUSTGPT_SECONDS} s", times, "<=", MOST_TIME[part]),
    ]


WHOLE = tuple(MOST_TIME)

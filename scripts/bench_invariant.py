"""What order invariance costs: kernels "invariant" beside fused ones, in turns in one process.

    python scripts/bench_invariant.py [--model smollm2-135m-instruct:q4_1] [--policy fp32] [--prompt-tokens 256]
        [--new-tokens 64] [--threads 2] [--turns 10]

A prompt is read, then tokens are decoded one by one, of one row and of 32. The mode's speed over the fast path's is the
median of the ratios of neighbouring turns. Exit codes: 0 the thresholds are met, 1 one is missed.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from bench.turns import spread
from bench.verdicts import Row, row, table

from xplm.backend import load_backend
from xplm.checkpoint.load import load_params
from xplm.checkpoint.opening import open_checkpoint
from xplm.checkpoint.pull import pull
from xplm.cli.places import home
from xplm.generate.engine import Engine
from xplm.runtime import make_runtime

MODES = ("fused", "invariant")
LEAST = {"prefill": 0.6, "decode": 0.95}
"""What the mode must reach of the fast path's speed, of one row."""
MANY = 32


class Speeds(NamedTuple):
    """Tokens a second."""

    prefill: float
    decode: float


def make_run(engine: Engine, rows: int, plan: argparse.Namespace) -> Callable[[int], Speeds]:
    """What reads a prompt in each of so many rows and decodes."""
    rng = np.random.default_rng(0)
    T, new = plan.prompt_tokens, plan.new_tokens
    drawn = rng.integers(0, engine.config.vocab_size, (rows, T + new))

    def run(turn: int) -> Speeds:
        ids = np.roll(drawn, turn, axis=1)
        cache = engine.allocate(rows, T + new)
        with engine.rt.backend.computing():
            begin = time.perf_counter()
            engine.feed(cache, ids[:, :T])
            middle = time.perf_counter()
            for t in range(T, T + new):
                engine.feed(cache, ids[:, t : t + 1])
            end = time.perf_counter()
        return Speeds(rows * T / (middle - begin), rows * new / (end - middle))

    return run


def read_plan() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m-instruct:q4_1")
    parser.add_argument("--policy", default="fp32")
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, MANY])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=10)
    return parser.parse_args()


def main() -> int:
    """Measure, print the table, judge."""
    plan = read_plan()
    backend = load_backend("numpy", "cpu", plan.threads)
    checkpoint = open_checkpoint(pull(plan.model, home()))
    runtimes = {mode: make_runtime(backend, plan.policy, mode) for mode in MODES}
    params = load_params(checkpoint, runtimes["fused"])
    engines = {mode: Engine(rt, checkpoint.config, params) for mode, rt in runtimes.items()}

    found: list[Row] = []
    for rows in plan.rows:
        runs = {mode: make_run(engine, rows, plan) for mode, engine in engines.items()}
        turns: dict[str, list[Speeds]] = {mode: [] for mode in MODES}
        for turn in range(-1, plan.turns):  # the first compiles, and is not counted
            for mode in MODES if turn % 2 else reversed(MODES):
                speeds = runs[mode](turn)
                if turn >= 0:
                    turns[mode].append(speeds)
        for what in Speeds._fields:
            own = {mode: [getattr(speeds, what) for speeds in turns[mode]] for mode in MODES}
            found += [
                row(f"{what} tokens/s, {rows} rows, {mode}", spread(own[mode])) for mode in MODES
            ]
            ratios = [b / a for a, b in zip(own["fused"], own["invariant"], strict=True)]
            asked = (">=", LEAST[what]) if rows == 1 else ("", 0.0)
            found.append(row(f"{what}, {rows} rows, invariant / fused", spread(ratios), *asked))
    print(table(found))
    return 0 if all(row.is_met for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())

"""How often does parity call a right library wrong?   python scripts/parity_trials.py --backend torch --runs 200

Each run draws shapes and numbers of its own, puts every op, a layer, a model and an optimizer through both sides, and
lists what is called a bug. Policies take turns. On a library without faults, every line listed is a false alarm. Exit
codes: 0 no alarm, 1 some, 2 bad input, 130 interrupted.
"""

import argparse
import sys
import time

import numpy as np
from bench.run import add_where_flags, guarded

from xplm.backend import load_backend
from xplm.errors import RequestError
from xplm.numerics.parity.trials import clean_run
from xplm.runtime import make_runtime


def main() -> int:
    """Run, and say how many runs raised an alarm."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_where_flags(parser)
    parser.add_argument("--policy", action="append", help="may be given several times")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    given = parser.parse_args()
    if given.runs < 1:
        raise RequestError(f"--runs must be at least 1; got {given.runs}")

    backend = load_backend(given.backend, given.device)
    reference = make_runtime(load_backend("numpy"), "fp64")
    tests = [make_runtime(backend, policy) for policy in given.policy or ["fp32", "fp16", "bf16"]]
    n_alarmed, began = 0, time.perf_counter()
    for seed in range(given.seed, given.seed + given.runs):
        test = tests[seed % len(tests)]
        with np.errstate(all="ignore"):  # what overflows shows in the figures
            alarms = clean_run(test, reference, seed)
        n_alarmed += bool(alarms)
        for alarm in alarms:
            print(f"{backend.name}:{test.policy}, seed {seed}: {alarm}")
    seconds = time.perf_counter() - began
    print(f"{backend.name}: {n_alarmed} of {given.runs} runs raised an alarm, in {seconds:.0f} s")
    return 1 if n_alarmed else 0


if __name__ == "__main__":
    sys.exit(guarded(main))

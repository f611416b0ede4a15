"""One checkout's speed, measured in its own process: decode, prefill and a training step, in seconds.

    python speed_worker.py MODEL SEED DEVICE [BACKEND]

with the checkout, its backends and its scripts in PYTHONPATH; answers a line of JSON for each turn.
"""

import sys
from pathlib import Path
from time import perf_counter

import numpy as np

import xplm
from bench.processes import own_stdout, serve
from bench.steps import SHAPES, make_xplm_step

PROMPT, NEW, LONG = 64, 64, 256  # tokens
SHAPE = "d384"


def main() -> None:
    """Measure whenever asked."""
    model, seed, device, *given = sys.argv[1:]
    backend = given[0] if given else None
    answers = own_stdout()
    lm = xplm.load(model, device=device, backend=backend)
    ids = np.random.default_rng(int(seed)).integers(3, lm.config.vocab_size, LONG).tolist()
    step = make_xplm_step(SHAPES[SHAPE], "fused", None, int(seed), device, backend)

    def measure(turn: int) -> dict[str, float]:
        decode = lm.generate(ids[:PROMPT], max_new_tokens=NEW, temperature=0.0).timings
        prefill = lm.generate(ids, max_new_tokens=1, temperature=0.0).timings
        step()  # wakes the threads up
        started = perf_counter()
        step()
        return {
            "decode": decode.decode_seconds / decode.decode_tokens,
            "prefill": prefill.prefill_seconds,
            "step": perf_counter() - started,
        }

    serve(answers, f"{Path(xplm.__file__).parents[1]}", measure)


if __name__ == "__main__":
    main()

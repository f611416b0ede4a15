"""A random model that reads a prompt and decodes token by token, timed."""

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bench.run import add_where_flags
from xplm.cache import KVCache
from xplm.config import DecoderConfig
from xplm.layers.step import Steps
from xplm.models.decoder import forward, param_specs
from xplm.params import init_params
from xplm.runtime import Runtime


class Seconds(NamedTuple):
    """What one run took."""

    prompt: float
    token: float  # on average


def read_plan(description: str | None) -> argparse.Namespace:
    """The command line of a script that is described so: where to compute, and how much."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n\n")[0])
    add_where_flags(parser)
    parser.add_argument("--policy", default="fp32")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--turns", type=int, default=7)
    return parser.parse_args()


def make_run(
    rt: Runtime, config: DecoderConfig, prompt_tokens: int, new_tokens: int
) -> Callable[[int], Seconds]:
    """What reads a prompt and decodes; given the number of the turn, which changes the ids."""
    params = init_params(rt, param_specs(config), seed=0)
    steps = Steps(rt, config, params)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, prompt_tokens + new_tokens)

    def run(turn: int) -> Seconds:
        on_device = rt.backend.from_host(np.roll(ids, turn)[None, :])
        cache = KVCache.allocate(rt, config, batch=1, capacity=prompt_tokens + new_tokens)
        with rt.backend.computing():
            begin = time.perf_counter()
            forward(rt, config, params, on_device[:, :prompt_tokens], cache, last_only=True)
            rt.backend.synchronize()
            read = time.perf_counter()
            for t in range(prompt_tokens, prompt_tokens + new_tokens):
                forward(rt, config, params, on_device[:, t : t + 1], cache, steps=steps)
            rt.backend.synchronize()
            end = time.perf_counter()
        return Seconds(read - begin, (end - read) / new_tokens)

    return run

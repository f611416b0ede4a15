"""The points of bench_scaling.py: one cost at one size, each in a process of its own."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bench.steps import Shape, make_xplm_step
from bench.turns import repeated
from xplm.backend import load_backend
from xplm.cli.places import home
from xplm.cli.process import tune_process
from xplm.generate.engine import Engine
from xplm.language_model import load
from xplm.models.decoder import param_specs
from xplm.models.families.config_json import read_config
from xplm.params import init_params
from xplm.runtime import make_runtime

DECODED = 16
"""Tokens that are decoded before the cache is rolled back."""


class Sweep(NamedTuple):
    """A cost, and the sizes that it is measured at."""

    size: str  # what grows
    sizes: tuple[int, ...]
    cost: str  # what is timed
    expected: float  # exponent, once what grows dominates
    why: str


SWEEPS = {
    "decode": Sweep(
        "context", (256, 512, 1024, 2048, 4096, 8192), "seconds a token", 1.0,
        "a token reads the whole cache; the weights, which do not grow, come on top",
    ),
    "prefill": Sweep(
        "prompt", (128, 256, 512, 1024, 2048, 4096), "seconds a prompt", 2.0,
        "every position attends to all before it; the other products grow as the prompt",
    ),
    "width": Sweep(
        "width", (64, 128, 256, 512), "seconds a training step", 2.0,
        "matrices have the width squared; norms and activations grow as the width",
    ),
    "depth": Sweep(
        "layers", (2, 4, 8, 16), "seconds a training step", 1.0,
        "layers are alike; embedding and head do not grow",
    ),
}  # fmt: skip

SMALL = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16384,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
"""The model that generates, where none is named: random weights."""

STEP = Shape(4, 128, 1e-3, hidden_size=128, mlp=344, layers=4, heads=4, vocab=512)
"""The training step that grows in width and in depth."""


def make_point(options: dict[str, Any]) -> tuple[str, Callable[[Any], dict[str, float]]]:
    """Its name, and how to measure it: any request gives seconds, and the most memory beyond the program's own."""
    sweep, size = options["sweep"], options["size"]
    make = {"decode": make_decode, "prefill": make_prefill}.get(sweep, make_training)
    tune_process()
    memory = load_backend(options["backend"], options["device"]).memory
    before = memory().peak  # the libraries that the backend brings included
    run, tokens = make(options), DECODED if sweep == "decode" else 1

    def measure(request: Any) -> dict[str, float]:
        _, seconds = repeated(run)
        return {"seconds": seconds / tokens, "added_bytes": memory().peak - before}

    return f"{sweep} {size}", measure


def make_engine(options: dict[str, Any]) -> Engine:
    """The model that generates."""
    if options["model"]:
        where = {name: options[name] for name in ("device", "backend", "kernels")}
        return load(options["model"], home=home(), **where).engine
    backend = load_backend(options["backend"], options["device"])
    rt = make_runtime(backend, "fp32", options["kernels"])
    config = read_config(SMALL)
    return Engine(rt, config, init_params(rt, param_specs(config), options["seed"]))


def make_decode(options: dict[str, Any]) -> Callable[[], None]:
    """Decodes DECODED tokens after `size` others."""
    engine, ids = make_engine(options), draw_ids(options)
    size = len(ids) - DECODED
    cache = engine.allocate(1, len(ids))
    engine.feed(cache, ids[None, :size])

    def run() -> None:
        cache.rollback(size)
        for token in ids[size:]:
            engine.feed(cache, np.asarray([[token]]))

    return run


def make_prefill(options: dict[str, Any]) -> Callable[[], None]:
    """Reads a prompt of `size` tokens."""
    engine, ids = make_engine(options), draw_ids(options)[DECODED:]
    cache = engine.allocate(1, len(ids))

    def run() -> None:
        cache.rollback(0)
        engine.feed(cache, ids[None, :])

    return run


def make_training(options: dict[str, Any]) -> Callable[[], Any]:
    """Takes a step with a model whose width or depth is `size`."""
    size = options["size"]
    shape = STEP._replace(layers=size)
    if options["sweep"] == "width":
        mlp = STEP.mlp * size // STEP.hidden_size
        shape = STEP._replace(hidden_size=size, mlp=mlp)
    where = options["device"], options["backend"]
    return make_xplm_step(shape, options["kernels"], None, options["seed"], *where)


def draw_ids(options: dict[str, Any]) -> np.ndarray:
    """Random ids: `size`, and those to decode."""
    rng = np.random.default_rng(options["seed"])
    return rng.integers(0, SMALL["vocab_size"], options["size"] + DECODED)

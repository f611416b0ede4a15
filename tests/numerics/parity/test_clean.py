"""No false alarm on random shapes, on every library and in every precision that is here.

Most of the trials run nightly; more of them by scripts/parity_trials.py.
"""

import pytest

from tests.on_backends import load_or_skip, on
from xplm.backend import load_backend
from xplm.numerics.parity.check_model import check_model
from xplm.numerics.parity.trials import clean_run
from xplm.numerics.tiny_models import TINY_MODELS, tiny_config
from xplm.runtime import make_runtime

RUNS = [
    *[("numpy", policy, seed) for policy in ("fp32", "fp16", "bf16") for seed in range(6)],
    *[
        ("numpy", policy, 50)
        for policy in ("fp64", "bf16,norm=bf16,rope=bf16,softmax=fp16", "fp32,cache=bf16")
    ],
    *[("strict", "fp32", seed) for seed in range(10, 15)],
    *[("strict", policy, 60) for policy in ("fp64", "fp16", "bf16")],
    *[("torch", policy, 20 + seed) for policy in ("fp32", "fp16", "bf16") for seed in range(3)],
    ("jax", "fp16", 30),  # it compiles every op for every shape
]
SHORT = [
    *[("numpy", policy, seed) for policy in ("fp32", "fp16", "bf16") for seed in (0, 1)],
    ("numpy", "bf16,norm=bf16,rope=bf16,softmax=fp16", 50),
    ("strict", "fp32", 10),
    ("strict", "fp16", 60),
    ("torch", "fp32", 20),
    ("torch", "bf16", 20),
]
"""Those of the short run."""


@pytest.mark.parametrize(
    ("name", "policy", "seed"),
    [
        pytest.param(*run, marks=[on(run[0]), *([] if run in SHORT else [pytest.mark.nightly])])
        for run in RUNS
    ],
)
def test_a_clean_run_raises_no_alarm(name, policy, seed):
    reference = make_runtime(load_backend("numpy"), "fp64")
    assert clean_run(make_runtime(load_or_skip(name), policy), reference, seed) == []


DYNAMIC = {
    "rope_scaling": {"rope_type": "dynamic", "factor": 4.0},
    "max_position_embeddings": 4,
    "head_dim": 6,
}


@pytest.mark.parametrize("length", [1, 2, 3, 4, 9])
def test_rows_of_every_length_raise_no_alarm(length):
    """From a single token to twice the trained length, where RoPE's frequencies depend on the length."""
    backend = load_backend("numpy")
    test, reference = (make_runtime(backend, policy, "portable") for policy in ("fp32", "fp64"))
    config = tiny_config(TINY_MODELS["llama"] | DYNAMIC)
    assert check_model(test, reference, config, length=length, draws=2).faults == []

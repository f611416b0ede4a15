"""The peak of generation: counted by hand, and foretold beside what a process really took."""

import json
import subprocess
import sys

import pytest

from tests.cli.conftest import write_tiny
from tests.generate.tiny import tiny_model
from xplm.backend import DeviceMemory
from xplm.cache import KVCache
from xplm.generate.memory import plan_generation

TOLERANCE = 0.1
"""As for a training step: what no array of the model's own takes, and holes beyond the one that is counted."""

LARGE = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 2048,
}


@pytest.fixture(scope="module")
def large_directory(tmp_path_factory):
    """A model of 30 million parameters."""
    return write_tiny(tmp_path_factory.mktemp("memory") / "large", **LARGE)


def bench(directory, *flags):
    """Generation measured in a process of its own."""
    given = ["--model", str(directory), "--new-tokens", "2", "--repeats", "1", "--threads", "1"]
    command = [sys.executable, "-m", "xplm", "bench", *given, *flags, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.nightly
@pytest.mark.parametrize("policy", ["fp32", "bf16"])
def test_the_peak_is_predicted(large_directory, policy):
    found = bench(large_directory, "--policy", policy, "--prompt-tokens", "1500")
    process = found["predicted_memory_bytes"]["process"]
    measured = found["peak_memory_bytes"] - process
    assert measured > 90e6, "the model's part is large enough to be seen beside the process"
    assert found["predicted_peak_memory_bytes"] - process == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("policy", ["fp32", "bf16"])
def test_weights_and_cache_are_those_that_are_there(policy):
    lm = tiny_model(policy=policy)
    plan = plan_generation(
        lm.engine, DeviceMemory(0, 0, 0), prompt_tokens=20, new_tokens=5, batch=3
    )
    assert plan.parts["weights"] == sum(array.nbytes for array in lm.params.values())
    assert plan.parts["cache"] == KVCache.allocate(lm.rt, lm.config, 3, 25).n_bytes


def test_a_chunk_bounds_the_activations():
    lm = tiny_model()
    found = [
        plan_generation(lm.engine, DeviceMemory(0, 0, 0), prompt_tokens=n, new_tokens=4000 - n)
        for n in (512, 1024, 2048)
    ]
    assert len({plan.parts["activations"] for plan in found}) == 1

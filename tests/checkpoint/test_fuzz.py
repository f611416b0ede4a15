"""Damaged files: whatever the bytes, only the documented errors come out, and nothing giant is allocated."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.checkpoint.tiny import hf_config, random_tensors, write_directory, write_gguf
from xplm.backend import load_backend
from xplm.checkpoint.load import load_params
from xplm.checkpoint.opening import open_checkpoint
from xplm.errors import XplmError
from xplm.runtime import make_runtime

fuzz = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

CONFIG = hf_config(num_hidden_layers=1)
TENSORS = random_tensors(CONFIG)

# A header field read as one of these asks for as much as a file can.
EXTREMES = [struct.pack("<Q", value) for value in (0, 1, 2**31, 2**32, 2**63, 2**64 - 1)]


@st.composite
def damage(draw, content, reach):
    """Up to three overwritten stretches in the first `reach` bytes, then perhaps a cut."""
    damaged = bytearray(content)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, reach - 1))
        patch = draw(st.binary(min_size=1, max_size=8) | st.sampled_from(EXTREMES))
        damaged[at : at + len(patch)] = patch
    cut = draw(st.none() | st.integers(0, reach) | st.integers(0, len(damaged)))
    return bytes(damaged[:cut])


def load(path):
    """Load as far as it goes. xplm's own errors are caught and must be one line; others are bugs."""
    message, n_bytes = "", 0
    try:
        checkpoint = open_checkpoint(path)
        params = load_params(checkpoint, make_runtime(load_backend("numpy"), "fp32"))
        n_bytes = sum(array.nbytes for array in params.values())
    except XplmError as error:
        message = str(error)
    assert message or n_bytes, "an error must say something"
    assert "\n" not in message
    assert n_bytes < 2**20


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    names = list(TENSORS)
    shards = [{name: TENSORS[name] for name in part} for part in (names[:5], names[5:])]
    return write_directory(tmp_path_factory.mktemp("fuzz") / "m", CONFIG, shards)


@pytest.fixture(scope="module")
def gguf_path(tmp_path_factory):
    factors = {"rope_freqs.weight": np.ones(4, np.float32)}
    path = tmp_path_factory.mktemp("fuzz") / "m.gguf"
    return write_gguf(path, CONFIG, TENSORS, extra=factors, attention__sliding_window=8)


def fuzz_file(data, path: Path, reach):
    original = path.read_bytes()
    try:
        path.write_bytes(data.draw(damage(original, min(reach, len(original)))))
        load(path.parent if path.suffix != ".gguf" else path)
    finally:
        path.write_bytes(original)


@fuzz
@given(data=st.data())
def test_a_damaged_gguf_header(gguf_path, data):
    fuzz_file(data, gguf_path, 2000)


@fuzz
@given(data=st.data())
def test_a_damaged_safetensors_header(directory, data):
    fuzz_file(data, directory / "model-00001-of-00002.safetensors", 700)


@fuzz
@given(data=st.data())
def test_a_damaged_index(directory, data):
    fuzz_file(data, directory / "model.safetensors.index.json", 2000)


@fuzz
@given(data=st.data())
def test_a_damaged_config(directory, data):
    fuzz_file(data, directory / "config.json", 2000)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**13), 10**13)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["llama", "qwen2", "mistral", "yarn", "llama3", "dynamic", "linear"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["rope_type", "type", "factor", "rope_theta", "beta_fast"]), inner
        )
    ),
    max_leaves=6,
)
KEYS = [*CONFIG, "rope_scaling", "rope_parameters", "sliding_window", "use_sliding_window"]
KEYS += ["layer_types", "max_window_layers", "attention_bias", "mlp_bias", "initializer_range"]


@fuzz
@given(changes=st.dictionaries(st.sampled_from(KEYS), values, max_size=3))
def test_a_config_of_odd_values(directory, changes):
    path = directory / "config.json"
    original = path.read_bytes()
    try:
        path.write_text(json.dumps(CONFIG | changes))
        load(directory)
    finally:
        path.write_bytes(original)


@fuzz
@given(index=st.dictionaries(st.sampled_from(["weight_map", "metadata"]), values))
def test_an_index_of_odd_values(directory, index):
    path = directory / "model.safetensors.index.json"
    original = path.read_bytes()
    try:
        path.write_text(json.dumps(index))
        load(directory)
    finally:
        path.write_bytes(original)

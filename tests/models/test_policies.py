"""Every op's dtypes in a model that takes them one by one, under every policy; and what giving an island up does."""

from dataclasses import replace

import numpy as np
import pytest

from tests.tiny import draw_ids, make_config, make_params
from xplm.cache import KVCache
from xplm.kernels import PORTABLE
from xplm.models.decoder import forward
from xplm.precision import HOST_DTYPES, Policy, wide_dtype
from xplm.runtime import make_runtime

BASES = ["fp64", "fp32", "fp16", "bf16"]
OVERRIDES = [f"bf16,{part}={d}" for part in ("rope", "norm", "softmax") for d in ("bf16", "fp16")]
OVERRIDES += ["fp16,norm=fp16", "bf16,loss=bf16", "bf16,cache=fp32", "fp32,param=bf16"]


def record(rt):
    """A runtime whose kernels note (name, dtypes of array arguments, dtype of the result, dtypes saved)."""
    calls = []

    def recording(name, kernel):
        def recorded(*arrays, **options):
            y, saved = kernel(*arrays, **options)
            given = [array.dtype for array in arrays if array is not None]
            calls.append((name, given, y.dtype, saved))
            return y, saved

        return recorded

    kernels = {name: recording(name, rt.kernels[name]) for name in PORTABLE}
    return replace(rt, kernels=kernels), calls


def run(rt, *, ids=None, **changes):
    config = make_config(**changes)
    params = make_params(rt, config)
    cache = KVCache.allocate(rt, config, batch=2, capacity=6)
    logits = forward(rt, config, params, draw_ids(40, 2, 6) if ids is None else ids, cache)
    return logits, params, cache


@pytest.mark.parametrize("text", [*BASES, *OVERRIDES])
def test_every_kernel_has_its_dtypes(numpy_backend, text):
    policy = Policy.parse(text)
    dtype = {part: HOST_DTYPES[getattr(policy, part)] for part in policy.__dataclass_fields__}
    rt, calls = record(make_runtime(numpy_backend, policy, kernels="portable"))
    logits, params, cache = run(rt)
    assert {array.dtype for array in params.values()} == {dtype["param"]}
    assert cache.of_layer(0).keys.dtype == dtype["cache"]

    seen = set()
    for name, given, result, saved in calls:
        is_head = name == "linear_fwd" and saved.weight is params["lm_head.weight"]
        expected = dtype["param" if name == "embedding_fwd" else "loss" if is_head else "compute"]
        assert result == expected, name
        seen.add(name)
        if name == "rms_norm_fwd":
            assert given[0] == dtype["compute"]
            assert saved.rstd.dtype == dtype["norm"]
        if name == "rope_fwd":
            assert given == [dtype["compute"], dtype["rope"], dtype["rope"]]
        if name == "attention_fwd":
            assert given == [dtype["compute"], dtype["cache"], dtype["cache"]]
            assert saved.lse.dtype == wide_dtype(np.zeros(0, dtype["softmax"]), np)
    activations = {"gelu_fwd", "gelu_erf_fwd", "relu_fwd", "relu2_fwd"}
    elsewhere = {*activations, "layer_norm_fwd", "softmax_fwd", "dropout_fwd"}
    experts = {
        "clamped_swiglu_fwd",
        "expert_linear_fwd",
        "expert_sum_fwd",
        "router_fwd",
        "sigmoid_gate_fwd",
    }
    losses = {"cross_entropy_fwd", "linear_cross_entropy_fwd"}
    assert (
        seen == {name for name in PORTABLE if name.endswith("_fwd")} - elsewhere - experts - losses
    )
    assert logits.dtype == dtype["loss"]


def distance(numpy_backend, text, **changes):
    """Largest difference of logits from those of the same rounded parameters in float64."""
    base = text.split(",")[0]
    rt = make_runtime(numpy_backend, text)
    logits, params, _ = run(rt, **changes)
    exact = make_runtime(numpy_backend, "fp64")
    wide = {name: array.astype(np.float64) for name, array in params.items()}
    reference = forward(exact, make_config(**changes), wide, draw_ids(40, 2, 6))
    assert base in BASES
    return float(np.abs(logits.astype(np.float64) - reference).max() / np.abs(reference).max())


@pytest.mark.parametrize(("text", "u"), [("fp32", 2.0**-24), ("fp16", 2.0**-11), ("bf16", 2.0**-8)])
def test_distance_from_float64_is_a_few_roundings(numpy_backend, text, u):
    # About 20 roundings lie between ids and logits, none amplified by more than a small factor; and it is not exact.
    assert u / 8 < distance(numpy_backend, text) < 40 * u


@pytest.mark.parametrize("island", ["softmax", "norm", "rope", "loss"])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_giving_an_island_up_is_visible(numpy_backend, island, dtype):
    # In float32 otherwise, so that the island is all that is rounded to 11 or 8 bits.
    assert distance(numpy_backend, "fp32") < 1e-5
    assert distance(numpy_backend, f"fp32,{island}={dtype}") > 1e-4


def test_norm_in_float16_overflows_where_float32_does_not(numpy_backend):
    config = make_config(num_hidden_layers=1)
    results = {}
    for text in ("fp16", "fp16,norm=fp16"):
        rt = make_runtime(numpy_backend, text)
        params = make_params(rt, config)
        params["model.embed_tokens.weight"] = params["model.embed_tokens.weight"] * np.float16(2000)
        with np.errstate(over="ignore"):  # 500^2 is beyond 65504
            results[text] = forward(rt, config, params, draw_ids(41, 1, 4))
    assert np.abs(results["fp16"]).max() > 0.1
    np.testing.assert_array_equal(results["fp16,norm=fp16"], 0)

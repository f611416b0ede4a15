"""Training in formats that no backend here has: float32 masters, emulated passes, straight-through gradients."""

import json

import numpy as np
import pytest

import xplm
from tests.train.runs import assert_bitwise_equal, host_weights, run_to, start, tiny_recipe
from xplm.train.metrics import read_lines

BACKENDS = ("numpy", "strict")
POLICIES = [
    "bf16,norm=fp8_e5m2",
    "tf32",
    "fp32,matmul=tf32",
    "fp8",
    "fp8_e5m2,matmul=fp8,accumulate=bf16",
    "bf16,accumulate=bf16",
]


@pytest.mark.parametrize(
    "policy", [POLICIES[0], *(pytest.param(p, marks=pytest.mark.nightly) for p in POLICIES[1:])]
)
def test_a_run_learns_and_is_the_same_on_numpy_and_strict(tmp_path, policy):
    recipe = tiny_recipe(tmp_path, train__policy=policy)
    runs = {name: run_to(start(recipe, tmp_path / name, backend=name)) for name in BACKENDS}
    weights = {name: host_weights(run) for name, run in runs.items()}
    assert_bitwise_equal(weights["numpy"], weights["strict"])
    assert {array.dtype for array in weights["numpy"].values()} == {np.dtype(np.float32)}
    lines = read_lines(tmp_path / "numpy" / "metrics.jsonl")
    assert lines[-1]["val_loss"] < lines[0]["val_loss"]


def test_resumed_in_fp8_it_ends_in_the_same_weights(tmp_path):
    recipe = tiny_recipe(tmp_path, train__policy="fp8", train__dropout=0.1, data__accumulation=2)
    unbroken = run_to(start(recipe, tmp_path / "unbroken"))
    run_to(start(recipe, tmp_path / "broken"), 5).save()
    resumed = run_to(start(recipe, tmp_path / "broken", resume=True))
    assert_bitwise_equal(host_weights(resumed), host_weights(unbroken))
    assert resumed.state.scale == unbroken.state.scale


def test_float8_scales_its_loss_and_skips_what_overflows(tmp_path):
    run = run_to(start(tiny_recipe(tmp_path, train__policy="fp8"), tmp_path / "run"))
    scale = run.state.scale
    assert scale.is_dynamic
    assert scale.skipped > 0
    assert scale.scale == 2.0 ** (16 - scale.skipped)


@pytest.mark.parametrize("policy", ["fp32,matmul=fp8", "bf16,accumulate=fp16"])
def test_so_do_products_in_narrow_formats(tmp_path, policy):
    run = start(tiny_recipe(tmp_path, train__policy=policy), tmp_path / "run")
    run.close()
    assert run.state.scale.is_dynamic


@pytest.mark.parametrize(
    ("policy", "dtype"),
    [
        ("fp8", "float32"),
        pytest.param("tf32", "float32", marks=pytest.mark.nightly),
        pytest.param("bf16", "bfloat16", marks=pytest.mark.nightly),
    ],
)
def test_what_is_saved_has_a_dtype_that_others_read(tmp_path, policy, dtype):
    run = run_to(
        start(tiny_recipe(tmp_path, train__policy=policy), tmp_path / "run", backend="strict")
    )
    model = run.save()
    assert json.loads((model / "config.json").read_text())["torch_dtype"] == dtype
    logits = [xplm.load(model, policy=policy, backend=name).logits([1, 2, 3]) for name in BACKENDS]
    np.testing.assert_array_equal(*logits)

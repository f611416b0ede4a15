"""Every op, every layer and every architecture against central differences in float64.

1e-8 and 1e-6 are far above what differences can tell (1e-12 of a sum of order 1) and far below any mistake.
"""

import inspect

import numpy as np
import pytest

from tests.kinds import every_kind
from xplm.kernels import PORTABLE, linear_cross_entropy_fwd
from xplm.numerics.check_layers import LAYERS, VARIANTS, check_layer
from xplm.numerics.check_model import check_model
from xplm.numerics.check_ops import check_op, run_case
from xplm.numerics.gradient_check import MODEL_LIMIT, OP_LIMIT
from xplm.numerics.op_cases import OPS, op_cases
from xplm.numerics.op_examples import EXAMPLES
from xplm.numerics.tiny_models import TINY_MODELS, tiny_config
from xplm.rope_scaling import ROPE_TYPES
from xplm.runtime import make_runtime


def test_every_op_has_cases_and_an_example():
    ops = {name.removesuffix("_fwd") for name in PORTABLE if name.endswith("_fwd")}
    assert set(OPS) == set(EXAMPLES) == ops
    for op, row in OPS.items():
        parameters = inspect.signature(PORTABLE[f"{op}_fwd"]).parameters
        assert tuple(parameters)[: len(row.arguments)] == row.arguments
        assert set(row.gradients) <= set(row.arguments)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.nightly)])
def test_op(numpy_backend, op, seed):
    table = make_runtime(numpy_backend, "fp64", "fused").kernels
    found = check_op(numpy_backend, table, op, seed=seed)
    assert {error.argument for _, error in found} == set(OPS[op].gradients)
    for case, error in found:
        assert error.error <= OP_LIMIT, (case, error)


@pytest.mark.parametrize("op", OPS)
def test_op_where_a_copy_through_the_host_raises(device1, op):
    case, dy = EXAMPLES[op]
    for error in run_case(device1, PORTABLE, op, case, dy=dy).errors:
        assert error.error <= OP_LIMIT, error


@pytest.mark.parametrize("n_logits", [7, 14, 21])
def test_head_in_chunks(numpy_backend, monkeypatch, n_logits):
    """One, two and three rows at a time of a vocabulary of 7."""
    monkeypatch.setitem(linear_cross_entropy_fwd.__globals__, "LOGITS_PER_CHUNK", n_logits)
    for case, error in check_op(numpy_backend, PORTABLE, "linear_cross_entropy"):
        assert error.error <= OP_LIMIT, (case, error)


def test_cases_reach_what_is_easy_to_miss():
    attention = op_cases("attention")
    assert any(c.args[1].shape[1] < c.args[0].shape[1] for c in attention), "K < H"
    assert any(c.options["window"] for c in attention)
    assert any(c.options["start"] for c in attention)
    assert any(c.args[0].shape[2] == 1 for c in attention), "one token"
    assert any(c.args[1].shape[3] != c.args[2].shape[3] for c in attention), "Dv != D"
    padded = [c.args[3] for c in attention if len(c.args) == 4]
    queries = np.arange(padded[0].shape[1])
    assert any((first > queries).any() for first in padded), "a query that sees nothing"
    masked = [c.args for c in op_cases("softmax") if len(c.args) == 2]
    assert any((~np.broadcast_to(m, x.shape)).all(-1).any() for x, m in masked)
    assert {c.label for c in op_cases("rope")} >= set(ROPE_TYPES)


# Some numbers of each parameter, and all together along random directions; nightly every number by itself.
ENTRIES = pytest.mark.parametrize(
    "entries", [pytest.param(4), pytest.param(None, marks=pytest.mark.nightly)], ids=["some", "all"]
)


@ENTRIES
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_layer(numpy_backend, layer, variant, entries):
    errors = check_layer(numpy_backend, "fused", layer, variant, entries=entries)
    for error in errors:
        assert error.error <= OP_LIMIT, error


@ENTRIES
@every_kind
def test_model(numpy_backend, name, entries):
    config = tiny_config(TINY_MODELS[name])
    for error in check_model(numpy_backend, "fused", config, entries=entries):
        assert error.error <= MODEL_LIMIT, error


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "options", [{"label_smoothing": 0.1}, {"z_loss": 0.05}, {"recompute": True}], ids=str
)
def test_model_with_options(numpy_backend, name, options):
    config = tiny_config(TINY_MODELS[name])
    for error in check_model(numpy_backend, "fused", config, entries=2, **options):
        assert error.error <= MODEL_LIMIT, error


def test_the_bias_of_keys_has_a_gradient_of_zero(numpy_backend):
    """Softmax does not notice what a row of scores has in common; without RoPE, a key's bias is that."""
    errors = check_model(numpy_backend, "fused", tiny_config(TINY_MODELS["gpt2"]), entries=2)
    (bias,) = [e for e in errors if e.argument == "model.layers.1.self_attn.k_proj.bias"]
    assert bias.error <= MODEL_LIMIT


@pytest.mark.cuda
@pytest.mark.parametrize("op", OPS)
def test_op_on_a_gpu(op):
    cupy = pytest.importorskip("cupy", reason="needs CuPy")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        pytest.skip("needs an NVIDIA GPU")
    from xplm.backend import load_backend

    backend = load_backend("cupy", "cuda")
    table = make_runtime(backend, "fp64", "fused").kernels
    case, dy = EXAMPLES[op]
    for error in run_case(backend, table, op, case, dy=dy).errors:
        assert error.error <= OP_LIMIT, error

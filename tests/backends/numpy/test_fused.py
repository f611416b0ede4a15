"""Fused kernels beside their portable twins: within what rounding can explain, and the same bits every time."""

from inspect import signature

import numba
import numpy as np
import pytest
from xplm_numpy import blas
from xplm_numpy.kernels import FUSED
from xplm_numpy.kernels import linear as fused_linear
from xplm_numpy.kernels import linear_cross_entropy as fused_head
from xplm_numpy.narrow import contiguous

from tests.backends.numpy.cases import fused_cases
from tests.backends.numpy.layouts import assert_same_bits, shifted, spread
from tests.helpers import frozen
from xplm.backend import load_backend
from xplm.kernels import PORTABLE
from xplm.numerics.op_cases import OPS
from xplm.numerics.parity.check_ops import check_case
from xplm.numerics.parity.judge import BUG
from xplm.params import ParamSpec
from xplm.precision import HOST_DTYPES
from xplm.runtime import make_runtime
from xplm.train.clip import clip_by_global_norm
from xplm.train.optimizers import OPTIMIZERS, find_optimizer

BACKEND = load_backend("numpy")
PAIRS = [op for op in OPS if BACKEND.kernels.keys() & {f"{op}_fwd", f"{op}_bwd"}]
NARROW_ISLANDS = "bf16,softmax=bf16,norm=bf16,rope=bf16,loss=bf16"
DTYPES = ("float32", "bfloat16", pytest.param("float16", marks=pytest.mark.nightly))

every_op = pytest.mark.parametrize("op", PAIRS)


def run(op, arrays, options, *, dy=None):
    """Forward and backward: (y, gradients), all arrays."""
    rt = make_runtime(BACKEND, "fp32")
    y, saved = rt.kernels[f"{op}_fwd"](*arrays, **options)
    if dy is None:
        dy = np.random.default_rng(2).standard_normal(y.shape).astype(y.dtype)
    gradients = rt.kernels[f"{op}_bwd"](dy, saved)
    return [y, *(gradient for gradient in gradients if gradient is not None)]


def rounded(op, case, dtype="float32"):
    """The case's arrays, floats in `dtype`; tables are always in float32, as the islands are."""
    tables = ("cos", "sin")
    return [
        array if array is None or array.dtype != np.float64
        else array.astype(HOST_DTYPES["float32" if name in tables else dtype])
        for name, array in zip(OPS[op].arguments, case.args, strict=False)
    ]  # fmt: skip


def test_there_are_fused_kernels_here():
    assert {"attention", "rms_norm", "swiglu"} <= set(PAIRS)


@pytest.mark.parametrize(
    "op", [op for op in PAIRS if "island" in signature(PORTABLE[f"{op}_fwd"]).parameters]
)
def test_an_island_in_float64_is_the_portable_kernels(op):
    for case in fused_cases(op):
        arrays, options = rounded(op, case), {**case.options, "island": np.dtype(np.float64)}
        y, saved = BACKEND.kernels[f"{op}_fwd"](*arrays, **options)
        expected, expected_saved = PORTABLE[f"{op}_fwd"](*arrays, **options)
        dy = np.random.default_rng(3).standard_normal(y.shape).astype(y.dtype)
        gradients = BACKEND.kernels[f"{op}_bwd"](dy, saved)
        expected_gradients = PORTABLE[f"{op}_bwd"](dy, expected_saved)
        found = [array for array in (y, *gradients) if array is not None]
        portable = [array for array in (expected, *expected_gradients) if array is not None]
        assert_same_bits(found, portable)


@pytest.mark.parametrize(
    "policy",
    [
        "fp32",
        "bf16",
        *(pytest.param(p, marks=pytest.mark.nightly) for p in ("fp16", NARROW_ISLANDS)),
    ],
)
@every_op
def test_every_result_could_be_rounding(op, policy):
    test, reference = make_runtime(BACKEND, policy), make_runtime(BACKEND, "fp64", "portable")
    for case in fused_cases(op):
        for verdict in (found.verdict for found in check_case(test, reference, op, case)):
            assert verdict.kind != BUG, (case.label, verdict.name, verdict.reason)


@pytest.mark.parametrize("policy", ["bf16", "fp16"])
@pytest.mark.parametrize("op", ["linear", "linear_cross_entropy"])
def test_products_of_operands_as_they_are_stored_could_be_rounding(
    narrow_products, monkeypatch, op, policy
):
    dtypes = []
    multiply = blas.multiply
    monkeypatch.setattr(
        blas,
        "multiply",
        lambda lib, a, b, *rest, **options: (
            dtypes.append(a.dtype.name) or multiply(lib, a, b, *rest, **options)
        ),
    )
    monkeypatch.setattr(fused_linear, "MAX_ROWS_NARROW", 0)  # the cases have few rows
    test, reference = make_runtime(BACKEND, policy), make_runtime(BACKEND, "fp64", "portable")
    for case in fused_cases(op):
        for verdict in (found.verdict for found in check_case(test, reference, op, case)):
            assert verdict.kind != BUG, (case.label, verdict.name, verdict.reason)
    assert set(dtypes) == {test.host_dtype.compute.name}


@pytest.mark.parametrize("label", ["some rows are scored", "a bias, some rows are scored"])
@pytest.mark.parametrize("policy", ["fp32", "bf16", "fp16"])
def test_the_head_takes_some_rows_and_some_of_its_weights_at_a_time(monkeypatch, policy, label):
    op = "linear_cross_entropy"
    (case,) = (case for case in fused_cases(op) if case.label == label)
    monkeypatch.setattr(fused_head, "LOGITS_PER_CHUNK", 17 * 35)
    monkeypatch.setattr(fused_linear, "BLOCK_NUMBERS", 5 * 9)
    test, reference = make_runtime(BACKEND, policy), make_runtime(BACKEND, "fp64", "portable")
    for verdict in (found.verdict for found in check_case(test, reference, op, case)):
        assert verdict.kind != BUG, (verdict.name, verdict.reason)


def test_the_head_does_not_read_rows_whose_target_is_ignored():
    x, weight, targets = np.ones((4, 3), np.float32), np.ones((5, 3), np.float32), np.arange(4)
    x[1], targets[1] = np.nan, -100
    bias = np.ones(5, np.float32)
    loss, saved = fused_head.linear_cross_entropy_fwd(x, weight, targets, bias, ignore_index=-100)
    dx, dweight, _, dbias = fused_head.linear_cross_entropy_bwd(np.ones(4, np.float32), saved)
    assert (loss[1], *dx[1]) == (0.0, 0.0, 0.0, 0.0)
    assert np.isfinite(dweight).all()
    assert np.isfinite(dbias).all()


@every_op
def test_float64_is_the_portable_kernels(op):
    for case in fused_cases(op):
        rt = make_runtime(BACKEND, "fp64")
        arrays = case.args
        y, saved = rt.kernels[f"{op}_fwd"](*arrays, **case.options)
        expected, expected_saved = PORTABLE[f"{op}_fwd"](*arrays, **case.options)
        dy = np.ones_like(y)
        assert_same_bits([y], [expected])
        gradients = rt.kernels[f"{op}_bwd"](dy, saved)
        for one, other in zip(gradients, PORTABLE[f"{op}_bwd"](dy, expected_saved), strict=True):
            if other is not None:
                assert_same_bits([one], [other])


@pytest.mark.parametrize("op", ["rms_norm", "layer_norm"])
def test_one_weight_for_a_whole_row_is_the_portable_kernels(op):
    x, dy = np.random.default_rng(8).standard_normal((2, 3, 7)).astype(np.float32)
    rest = [np.full(1, 0.5, np.float32) for _ in OPS[op].arguments[1:]]
    y, _ = BACKEND.kernels[f"{op}_fwd"](x, *rest, eps=1e-5)
    expected, saved = PORTABLE[f"{op}_fwd"](x, *rest, eps=1e-5)
    assert_same_bits([y], [expected])
    gradients = BACKEND.kernels[f"{op}_bwd"](dy, saved)
    assert_same_bits(gradients, PORTABLE[f"{op}_bwd"](dy, saved))


@every_op
def test_arguments_may_be_read_only_strided_and_misaligned(op):
    case = fused_cases(op)[-1]
    arrays = rounded(op, case)
    expected = run(op, arrays, case.options)
    for moved in (frozen, spread, shifted):
        given = [None if array is None else moved(array) for array in arrays]
        if op == "linear" and moved is spread:
            given[1] = arrays[1]  # a strided weight is the portable kernel's
        assert_same_bits(run(op, given, case.options), expected)


@pytest.mark.parametrize("moved", [frozen, spread, shifted])
@pytest.mark.parametrize("dtype", [np.bool_, np.int64, np.float64])
def test_one_compiled_kernel_serves_them_all(moved, dtype):
    array = np.arange(7).astype(dtype)
    given = contiguous(moved(array))
    assert given.flags.carray
    np.testing.assert_array_equal(given, array)


@pytest.mark.parametrize("dtype", DTYPES)
@every_op
def test_bits_are_the_same_for_any_number_of_threads(op, dtype, on_threads):
    most = numba.config.NUMBA_NUM_THREADS
    for case in fused_cases(op):
        arrays = rounded(op, case, dtype)
        once, *others = (on_threads(n, run, op, arrays, case.options) for n in (1, most, most, 1))
        for other in others:
            assert_same_bits(other, once)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("op", [op for op in PAIRS if op not in ("dropout", "embedding")])
def test_what_is_not_finite_shows(op, bad):
    case = fused_cases(op)[0]
    arrays = rounded(op, case)
    arrays[0][(0,) * arrays[0].ndim] = bad
    with np.errstate(all="ignore"):
        found = run(op, arrays, case.options)[0]
        expected, _ = PORTABLE[f"{op}_fwd"](*arrays, **case.options)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))


RULES = [
    ("adam", {"weight_decay": 0.1}),
    ("adamw", {}),
    ("lion", {"weight_decay": 0.1}),
    ("sgd", {"weight_decay": 0.1}),
    ("sgd", {"momentum": 0.9}),
    ("sgd", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
]


def test_every_fused_rule_is_one_of_training():
    rules = {optimizer.rule.__name__ for optimizer in OPTIMIZERS.values()}
    assert BACKEND.rules.keys() == {*rules, clip_by_global_norm.__name__}


@pytest.mark.parametrize(("name", "options"), RULES, ids=str)
@pytest.mark.parametrize("size", [15, 40_000])
def test_a_fused_rule_is_the_rule(name, options, size):
    rng = np.random.default_rng(4)
    spec = ParamSpec("model.layers.0.mlp.up_proj.weight", (3, 5), "normal")
    optimizer = find_optimizer(name)
    param, grad, m = rng.standard_normal((3, size))
    kept = optimizer.make_options(options)
    moments = {
        key: m * m if key == "exp_avg_sq" else m
        for key in optimizer.make_moments(param, spec, kept)
    }
    rest = {"spec": spec, "step": 3, "lr": 0.1, "options": kept}
    expected, expected_moments = optimizer.rule(param, grad, moments, **rest)
    fused = BACKEND.rules[optimizer.rule.__name__]
    for dtype, u in ((np.float64, 2.0**-53), (np.float32, 2.0**-24)):
        given = {key: moment.astype(dtype) for key, moment in moments.items()}
        found, found_moments = fused(param.astype(dtype), grad.astype(dtype), given, **rest)
        # The operands are rounded, then a dozen operations; Adam's step divides by a root of at least |m| / 2.
        size_of_step = (abs(m) + abs(grad)) / np.sqrt(m * m + grad * grad)
        magnitude = abs(param) + 0.1 * (1.0 + abs(grad) + abs(m) + size_of_step)
        assert found.dtype == dtype
        assert found_moments.keys() == expected_moments.keys()
        assert np.all(abs(found - expected) <= 40 * u * magnitude)
        for key, moment in expected_moments.items():
            bound = 10 * u * (abs(m) + abs(grad) + abs(param) + m * m + grad * grad)
            assert np.all(abs(found_moments[key] - moment) <= bound)


@pytest.mark.parametrize(
    "options", [{}, {"nesterov": False, "weight_decay": 0.0, "adjust_lr": "original"}], ids=str
)
@pytest.mark.parametrize("shape", [(1, 5), (7, 7), (40, 500), (500, 40)], ids=str)
def test_the_fused_muon_is_muon(shape, options):
    optimizer = find_optimizer("muon")
    kept = optimizer.make_options(options)
    spec = ParamSpec("model.layers.0.mlp.up_proj.weight", shape, "normal")
    param, grad, buffer = np.random.default_rng(5).standard_normal((3, *shape))
    rest = {"spec": spec, "step": 3, "lr": 0.1, "options": kept}
    expected, moments = optimizer.rule(param, grad, {"momentum_buffer": buffer}, **rest)
    # A round multiplies an error by its slope, at most the first coefficient, and adds that of sums of n terms.
    rounds = 1.5 * kept.COEFFICIENTS[0] ** kept.ns_steps * (2 * min(shape) + 10)
    size = 0.1 * kept.adjustment(shape)
    for dtype, u in ((np.float64, 2.0**-53), (np.float32, 2.0**-24)):
        arrays = [x.astype(dtype) for x in (param, grad, buffer)]
        found, new = BACKEND.rules["muon_rule"](*arrays[:2], {"momentum_buffer": arrays[2]}, **rest)
        assert found.dtype == new["momentum_buffer"].dtype == dtype
        assert np.all(abs(found - expected) <= u * (4 * abs(param) + size * rounds))
        bound = 4 * u * (abs(grad) + abs(buffer))
        assert np.all(abs(new["momentum_buffer"] - moments["momentum_buffer"]) <= bound)


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.norm.weight"])
def test_what_is_not_muons_is_adamws(name):
    optimizer = find_optimizer("muon")
    options = optimizer.make_options({"adamw_lr_ratio": 0.5})
    param, grad, m = np.random.default_rng(5).standard_normal((3, 6, 4))
    moments = {"exp_avg": m, "exp_avg_sq": m * m}
    rest = {"spec": ParamSpec(name, (6, 4), "normal"), "step": 3, "options": options}
    found = BACKEND.rules["muon_rule"](param, grad, moments, lr=0.1, **rest)
    expected = BACKEND.rules["adamw_rule"](param, grad, moments, lr=0.05, **rest)
    assert_same_bits([found[0], *found[1].values()], [expected[0], *expected[1].values()])


@pytest.mark.parametrize("max_norm", [None, 1e3, 1.0])
def test_clipping_is_clip_by_global_norm(max_norm):
    rng = np.random.default_rng(6)
    grads = {str(n): rng.standard_normal(n).astype(np.float32) for n in (1, 70, 40_000)}
    found, norm = BACKEND.rules["clip_by_global_norm"](grads, max_norm)
    expected, exact = clip_by_global_norm(
        {k: g.astype(np.float64) for k, g in grads.items()}, max_norm
    )
    # All squares are positive: a sum of n is off by n u of itself, in blocks of 2^14 and lanes by far less.
    assert abs(norm - exact) <= 2**14 * 2.0**-24 * exact
    for name, grad in expected.items():
        assert np.all(abs(found[name] - grad) <= 2**14 * 2.0**-24 * abs(grad))


def test_products_of_large_activations_are_finite():
    """However LLVM orders the factors of gate * exp(gate) / (1 + exp(gate)) * up."""
    x = np.array([100.0, 5e3, 1e5, -1e5, 1e10] * 4, np.float32)
    up = np.abs(x)
    for y, expected in (
        (FUSED["gelu_fwd"](x)[0], np.maximum(x, 0.0)),
        (FUSED["swiglu_fwd"](x, up)[0], np.maximum(x, 0.0) * up),
    ):
        np.testing.assert_allclose(y, expected, rtol=4.0 * np.finfo(np.float32).eps)

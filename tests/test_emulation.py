"""Emulated formats: the same kernels, with every result rounded once; products with rounded operands and sums."""

from dataclasses import replace

import array_api_compat
import ml_dtypes
import numpy as np
import pytest

import xplm
from tests.cli.conftest import write_tiny
from tests.tiny import draw_ids, make_config, make_params
from xplm.backend import load_backend
from xplm.cache import KVCache
from xplm.checkpoint.save import save_directory
from xplm.emulation import emulate
from xplm.emulation.names import COMPUTES, MOVES, TELLS
from xplm.emulation.namespace import ACCUMULATE_BLOCK
from xplm.errors import BackendError, CheckpointError
from xplm.formats import FORMATS, find_format, round_to
from xplm.generate.engine import Engine
from xplm.kernels.rope import rope_tables
from xplm.models.training import loss_and_grads
from xplm.namespace import array_namespace
from xplm.precision import HOST_DTYPES, Policy, cast, wide_dtype
from xplm.runtime import make_runtime

BITWISE = [
    "bf16",
    "fp16",
    "bf16,cache=fp32",
    "fp32,cache=bf16,param=fp16",
    "bf16,rope=bf16",
    "fp16,rope=fp16",
]
POLICIES = [
    "fp8",
    "fp8_e5m2,norm=fp8_e5m2",
    "tf32",
    "e5m7,softmax=fp16",
    "fp32,matmul=tf32",
    "bf16,accumulate=bf16",
    "fp16,rope=bf16,loss=tf32,matmul=fp8_e5m2,accumulate=fp16",
]

SHORT = {"float8_e4m3fn": "fp8", "float8_e5m2": "fp8_e5m2", "float16": "fp16", "bfloat16": "bf16"}

GPT2 = {
    "model_type": "gpt2",
    "n_embd": 16,
    "n_head": 4,
    "n_layer": 2,
    "n_inner": 24,
    "n_positions": 64,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
}


def without(backend, *names):
    return replace(
        backend, dtypes={k: v for k, v in backend.dtypes.items() if k not in names}, kernels={}
    )


def emulated(backend, text):
    return emulate(backend, Policy.parse(text))


def on(backend, host, dtype):
    return cast(backend.from_host(np.asarray(host, np.float32)), backend.dtypes[dtype])


def run(rt, *, recompute=False, **changes):
    """Logits through a cache, the loss and all gradients of a tiny model, on the host."""
    config = make_config(**changes)
    params = make_params(rt, config)
    engine = Engine(rt, config, params)
    cache = engine.allocate(2, 8)
    logits = [engine.feed(cache, [draw_ids(40 + i, 3), draw_ids(42 + i, 2)]) for i in (0, 1)]
    ids = rt.backend.from_host(draw_ids(42, 2, 6))
    loss, grads = loss_and_grads(rt, config, params, ids, ids, n_targets=12, recompute=recompute)
    host = {name: rt.backend.to_host(grad) for name, grad in grads.items()}
    return np.stack(logits), float(loss), host


def assert_same_run(actual, expected):
    np.testing.assert_array_equal(actual[0], expected[0])
    assert actual[1] == expected[1]
    assert actual[2].keys() == expected[2].keys()
    for name, grad in expected[2].items():
        assert actual[2][name].dtype == grad.dtype
        np.testing.assert_array_equal(actual[2][name], grad)


@pytest.mark.parametrize("text", ["fp32", "fp64", "bf16,softmax=fp16", "fp32,matmul=fp64"])
def test_a_backend_that_has_it_all_stays_as_it_is(numpy_backend, text):
    assert emulated(numpy_backend, text) is numpy_backend


def test_a_name_says_what_is_emulated(numpy_backend):
    strict = load_backend("strict")
    assert emulated(strict, "bf16").name == "strict+bfloat16"
    assert emulated(numpy_backend, "fp8,norm=e5m7").name == "numpy+float8_e4m3fn+e5m7"
    both = emulated(numpy_backend, "bf16,matmul=tf32,accumulate=bf16")
    assert both.name == "numpy+matmul=tf32+accumulate=bfloat16"
    assert both.dtypes["bfloat16"] == ml_dtypes.bfloat16  # a dtype that is there passes through


def test_kernels_of_the_backend_are_left_out(numpy_backend):
    backend = replace(numpy_backend, kernels={"gelu_fwd": lambda x: x})
    assert not make_runtime(backend, "fp8").backend.kernels


def test_float32_and_float64_are_never_emulated(numpy_backend):
    with pytest.raises(BackendError, match='needs float64, which backend "numpy" lacks'):
        emulated(without(numpy_backend, "float64"), "bf16,loss=fp64")
    with pytest.raises(BackendError, match="needs float32"):
        emulated(without(numpy_backend, "float32"), "fp8,rope=fp8,norm=fp8,softmax=fp8,loss=fp8")


@pytest.mark.parametrize("text", BITWISE)
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_what_numpy_has_itself_comes_out_bit_for_bit(numpy_backend, text, model_type):
    # NumPy computes as emulation does, in float32, and rounds each result once; but for its sums in half precision,
    # which islands other than rope have.
    changes = {"model_type": model_type} if model_type == "llama" else GPT2
    native = run(make_runtime(numpy_backend, text, kernels="portable"), **changes)
    rt = make_runtime(without(numpy_backend, "float16", "bfloat16"), text)
    assert rt.backend.name != "numpy"
    assert_same_run(run(rt, **changes), native)


@pytest.mark.nightly_on("jax")  # it compiles every op of every policy anew
@pytest.mark.parametrize("text", POLICIES)
def test_every_policy_runs_the_same_on_every_backend(backend, numpy_backend, text):
    # array-api-strict computes with NumPy. Another library sums in another order, which may round the other way.
    actual = run(make_runtime(without(backend, "float16", "bfloat16"), text))
    expected = run(make_runtime(without(numpy_backend, "float16", "bfloat16"), text))
    assert all(np.isfinite(grad).all() for grad in actual[2].values())
    if backend.name in ("numpy", "strict"):
        assert_same_run(actual, expected)
    else:
        assert relative_error(actual, expected) < 20 * widest_eps(text)


@pytest.mark.parametrize("text", POLICIES)
def test_recompute_changes_nothing(numpy_backend, text):
    rt = make_runtime(numpy_backend, text)
    assert_same_run(run(rt, recompute=True), run(rt))


@pytest.mark.parametrize("text", POLICIES)
def test_every_policy_is_near_float32_and_is_not_float32(numpy_backend, text):
    exact = run(make_runtime(numpy_backend, "fp32"))
    rounded = run(make_runtime(numpy_backend, text))
    # Some 20 roundings, of which each moves a number by at most half an eps, none much amplified.
    eps = widest_eps(text)
    assert eps / 64 < relative_error(rounded, exact) < 20 * eps


def widest_eps(text):
    policy = Policy.parse(text)
    return max(find_format(name).eps for name in [*policy.dtypes, policy.matmul, policy.accumulate])


def relative_error(actual, expected):
    """Of the logits."""
    return np.abs(actual[0] - expected[0]).max() / np.abs(expected[0]).max()


@pytest.mark.nightly_on("jax")
@pytest.mark.parametrize("name", ["float8_e4m3fn", "e8m5", "e5m7"])  # whose short sums are exact
def test_every_result_is_rounded_once(backend, name):
    format = find_format(name)
    xp_backend = emulated(backend, f"fp32,compute={SHORT.get(name, name)}")
    rng = np.random.default_rng(0)
    x, y = (round_to(rng.uniform(0.5, 4, (3, 5)).astype(np.float32), format) for _ in range(2))
    a, b = on(xp_backend, x, name), on(xp_backend, y, name)
    xp = array_namespace(a)
    assert xp is xp_backend.xp
    cases = [
        (a + b, x + y),
        (a - b, x - y),
        (a * b, x * y),
        (a / b, x / y),
        (1.0 - a, 1.0 - x),
        (0.1 * a, np.float32(0.1) * x),
        (a**2, x**2),
        (2.0 / a, 2.0 / x),
        (xp.sqrt(a), np.sqrt(x)),
        (xp.sum(a, axis=-1), x.sum(axis=-1)),
        (xp.mean(a, axis=0, keepdims=True), x.mean(axis=0, keepdims=True)),
        (-a, -x),
        (abs(-a), x),
        (a.T, x.T),
        (xp.where(a > b, a, b), np.where(x > y, x, y)),
        (xp.maximum(a, b), np.maximum(x, y)),
        (xp.concat([a, b], axis=1), np.concatenate([x, y], axis=1)),
        (xp.full_like(a, 0.3), np.full_like(x, 0.3)),
        (xp.minimum(a, 0.77), np.minimum(x, np.float32(0.77))),
        (xp.where(a > b, a, 0.3), np.where(x > y, x, np.float32(0.3))),
        (a[1:, :2], x[1:, :2]),
        (a @ b.T, x @ y.T),
    ]
    for actual, expected in cases:
        assert actual.dtype == format
        assert actual.shape == expected.shape
        assert array_api_compat.device(actual) == backend.device
        host = xp_backend.to_host(actual).astype(np.float32)
        np.testing.assert_array_equal(host, round_to(expected.astype(np.float32), format))


def test_dtypes_meet_as_they_should(numpy_backend):
    backend = emulated(numpy_backend, "fp8,norm=fp8_e5m2")
    xp = backend.xp
    a, b = on(backend, [0.3], "float8_e4m3fn"), on(backend, [0.3], "float8_e5m2")
    single = on(backend, [0.3], "float32")
    double = cast(single, xp.float64)
    assert (a + b).dtype == (a + single).dtype == (b @ b + single).dtype == xp.float32
    assert (a + double).dtype == xp.float64
    assert (a * 2.0).dtype == (a + a).dtype == FORMATS["float8_e4m3fn"]
    assert wide_dtype(a, xp) == xp.float32
    assert wide_dtype(double, xp) == xp.float64
    assert xp.sum(single, dtype=b.dtype).dtype == b.dtype
    assert xp.zeros(2, dtype=a.dtype, device="cpu").dtype == a.dtype
    assert xp.isdtype(a.dtype, "real floating")
    assert not xp.isdtype(a.dtype, "integral")
    assert xp.isdtype(single.dtype, ("real floating", "bool"))
    assert xp.finfo(a.dtype).max == 448.0
    assert xp.finfo(xp.float32).max == np.finfo(np.float32).max
    assert (a > 0.0).dtype == xp.bool
    assert bool(xp.all(~(a < 0.0)))
    assert cast(a, a.dtype) is a
    assert float(cast(double, a.dtype)[0]) == float(a[0]) == 0.3125
    index = xp.argmax(a)
    assert int(index) == 0
    assert index.dtype == xp.int64


def test_float64_is_rounded_to_a_format_at_once(numpy_backend):
    backend = emulated(without(numpy_backend, "bfloat16"), "fp64,cache=bf16")
    x = backend.from_host(np.array([1.0 + 2.0**-8 + 2.0**-40]))  # a tie, if float32 came between
    assert float(cast(x, backend.dtypes["bfloat16"])[0]) == 1.0 + 2.0**-7


@pytest.mark.nightly_on("jax")
def test_operands_of_products_are_rounded(backend):
    wrapped = emulated(backend, "fp32,matmul=fp8_e5m2")
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    y = np.swapaxes(y, -1, -2).copy()
    product = wrapped.from_host(x) @ wrapped.from_host(y)
    assert product.dtype == backend.dtypes["float32"]
    e5m2 = FORMATS["float8_e5m2"]
    expected = round_to(x, e5m2).astype(np.float64) @ round_to(y, e5m2)
    bound = 2 * 5 * 2.0**-24 * (np.abs(x) @ np.abs(y)) * (1 + e5m2.eps) ** 2
    assert (np.abs(wrapped.to_host(product) - expected) <= bound).all()
    whole = wrapped.from_host(np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(wrapped.to_host(whole @ whole.T), [[5, 14], [14, 50]])


@pytest.mark.nightly_on("jax")
def test_partial_sums_are_rounded_block_by_block(backend):
    wrapped = emulated(backend, "fp32,accumulate=fp16")
    K = 2 * ACCUMULATE_BLOCK + 3
    rng = np.random.default_rng(2)
    x = rng.integers(-40, 40, (4, K)).astype(np.float32)  # sums are exact before they are rounded
    y = rng.integers(-40, 40, (K, 2)).astype(np.float32)
    total = np.zeros((4, 2), np.float16)
    for i in range(0, K, ACCUMULATE_BLOCK):
        part = (x[:, i : i + ACCUMULATE_BLOCK] @ y[i : i + ACCUMULATE_BLOCK]).astype(np.float16)
        total = (total.astype(np.float32) + part).astype(np.float16)
    assert (total != x @ y).any()
    product = wrapped.from_host(x) @ wrapped.from_host(y)
    np.testing.assert_array_equal(wrapped.to_host(product), total.astype(np.float32))
    vector = wrapped.xp.matmul(wrapped.from_host(x), wrapped.from_host(y[:, 0].copy()))
    np.testing.assert_array_equal(wrapped.to_host(vector), total[:, 0].astype(np.float32))
    nothing = wrapped.from_host(x[:, :0]) @ wrapped.from_host(y[:0])
    np.testing.assert_array_equal(wrapped.to_host(nothing), 0)


def test_a_sum_of_ones_in_bfloat16_stops_growing():
    # At 4096 the next bfloat16 is 32 away, and a block of 16 ones is a tie that goes back to even.
    backend = emulated(load_backend("numpy"), "fp32,accumulate=bf16")
    ones = backend.from_host(np.ones((1, 8192), np.float32))
    assert float((ones @ ones.T)[0, 0]) == 4096.0


def test_native_half_precision_products_are_rounded_too(numpy_backend):
    backend = emulated(numpy_backend, "bf16,matmul=fp8_e5m2")
    x = on(backend, [[1.125]], "bfloat16")
    product = x @ x
    assert product.dtype == backend.dtypes["bfloat16"]
    assert float(product[0, 0]) == 1.0  # 1.125 is a tie of float8_e5m2


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float16", "bfloat16"])
def test_formats_of_numpy_go_to_the_device_and_come_back(name):
    strict = emulated(load_backend("strict", "cuda"), f"fp32,param={SHORT[name]}")
    host = np.array([0.5, -3.0, 0.0], getattr(ml_dtypes, name, name))
    array = strict.from_host(host)
    assert array.dtype == FORMATS[name]
    back = strict.to_host(array)
    assert back.dtype == host.dtype
    np.testing.assert_array_equal(back.astype(np.float32), host.astype(np.float32))


def test_a_format_that_numpy_lacks_comes_back_as_float32(numpy_backend):
    backend = emulated(numpy_backend, "tf32")
    host = backend.to_host(on(backend, [1.0 + 2.0**-12], "tf32"))
    assert host.dtype == np.float32
    assert host.tolist() == [1.0]


def test_what_is_assigned_is_rounded(backend):
    wrapped = emulated(
        backend, "e5m3"
    )  # NumPy has no such dtype, which could round on the way back
    array = wrapped.xp.zeros((2, 3), dtype=wrapped.dtypes["e5m3"], device=backend.device)
    value = wrapped.from_host(np.array([0.3, 1e6], np.float32))
    array = wrapped.assign(array, (1, slice(0, 2)), value)
    assert array.dtype == find_format("e5m3")
    np.testing.assert_array_equal(wrapped.to_host(array), [[0, 0, 0], [0.3125, np.inf, 0]])


def test_angles_and_tables_are_rounded_as_numpys_own(numpy_backend):
    positions = np.random.default_rng(3).integers(0, 30000, (2, 50))
    inv_freq = 10000.0 ** (-np.arange(0, 1, 0.125))
    for name in ("bfloat16", "float16"):
        with np.errstate(over="ignore", invalid="ignore"):  # some angles are beyond float16
            native = rope_tables(positions, inv_freq, scale=1.0, dtype=HOST_DTYPES[name])
        ours = rope_tables(positions, inv_freq, scale=1.0, dtype=FORMATS[name])
        for actual, expected in zip(ours, native, strict=True):
            assert actual.dtype == np.float32
            np.testing.assert_array_equal(actual, expected.astype(np.float32))


def test_loaded_weights_are_rounded(tmp_path):
    directory = write_tiny(tmp_path / "tiny")
    exact = xplm.load(directory).params
    lm = xplm.load(directory, policy="e4m3,param=e5m3")
    format = find_format("e5m3")
    for name, array in lm.params.items():
        assert array.dtype == format
        np.testing.assert_array_equal(
            lm.rt.backend.to_host(array), round_to(np.asarray(exact[name]), format)
        )


def test_memory_is_counted_as_it_is_taken(numpy_backend):
    config = make_config()
    counts = [
        KVCache.count_bytes(make_runtime(numpy_backend, text), config, batch=2, capacity=8)
        for text in ("fp8", "fp32", "bf16")
    ]
    assert counts[0] == counts[1] == 2 * counts[2]


@pytest.mark.parametrize("text", ["fp8", "fp16"])
def test_a_weight_that_would_not_stay_finite_is_refused(tmp_path, text):
    directory = write_tiny(tmp_path / "tiny")
    lm = xplm.load(directory)
    lm.params["model.norm.weight"][0] = 1e5
    shapes = {name: array.shape for name, array in lm.params.items()}
    wide = tmp_path / "wide"
    read = lambda name, dtype: lm.params[name].astype(dtype)  # noqa: E731
    save_directory(wide, lm.config, shapes, read, "float32", lm.tokenizer.save)
    with pytest.raises(CheckpointError, match="must stay finite in float"):
        xplm.load(wide, policy=text, backend="strict")
    assert np.isfinite(xplm.load(wide, policy="bf16", backend="strict").logits([1])).all()


def test_nothing_goes_to_the_host_unasked(numpy_backend):
    backend = emulated(numpy_backend, "fp8")
    array = on(backend, [1.0], "float8_e4m3fn")
    with pytest.raises(TypeError, match="to_host"):
        np.asarray(array)
    assert (np.float32(2.0) * array).dtype == array.dtype
    assert "float8_e4m3fn" in repr(array)


def test_what_emulation_does_not_know_is_an_error(numpy_backend):
    backend = emulated(numpy_backend, "fp8")
    with pytest.raises(AttributeError, match="has no einsum"):
        backend.xp.einsum  # noqa: B018
    for name in MOVES | COMPUTES | TELLS:
        if hasattr(load_backend("strict").xp, name):
            assert callable(getattr(backend.xp, name))
    assert len(MOVES | COMPUTES | TELLS) == len(MOVES) + len(COMPUTES) + len(TELLS)


def test_equal_policies_share_a_namespace_and_others_do_not(numpy_backend):
    first, same = (emulated(numpy_backend, text) for text in ("fp8", "fp8_e5m2"))
    other = emulated(numpy_backend, "fp8,accumulate=bf16")
    assert first.xp is same.xp
    assert first.xp is not other.xp
    for backend in (first, other):
        assert array_namespace(on(backend, [1.0], "float8_e4m3fn")) is backend.xp

import numpy as np
import pytest
from xplm_numpy.kernels import FUSED

from tests.kernels.fusions.bounds import EPS, assert_within, draw, draw_norm, mlp_half, stored
from xplm.kernels.fusions import FUSIONS
from xplm.kernels.parts.norms import LAYER, RMS_ONCE
from xplm.specs import ACTIVATIONS


def make_arguments(dtypes, *, B, C, F, bias, T=1):
    rng = np.random.default_rng(51)
    activation, weight = dtypes
    shapes = ((F, C), (F, C), (C, F))
    return [
        *[draw(rng, activation, B, T, C) for _ in range(2)],
        draw(rng, weight, C),
        *[draw(rng, weight, *shape, scale=2 * shape[1] ** -0.5) for shape in shapes],
        *[draw(rng, weight, n) if bias else None for n, _ in shapes],
    ]


def expected(x, residual, *weights, **facts):
    return mlp_half(stored(x), stored(residual), *weights, **facts)


@pytest.mark.parametrize(
    "shape",
    [
        {"B": 1, "C": 33, "F": 50, "bias": True},
        {"B": 1, "C": 1, "F": 1, "bias": False},
        {"B": 7, "C": 40, "F": 40, "bias": False},
        {"B": 8, "C": 16, "F": 27, "bias": True},
        {"B": 2, "C": 8, "F": 12, "bias": False, "T": 3},
    ],
    ids=str,
)
def test_is_what_its_ops_are(fusions, dtypes, shape):
    arguments = make_arguments(dtypes, **shape)
    actual = fusions["norm_mlp_residual"](*arguments, eps=EPS, island=np.dtype(np.float32))
    assert_within(actual, expected(*arguments))


FACTS = {
    "no norm": {"norm": None},
    "an output norm": {"output_norm": True},
    "an output norm alone, a scale": {"norm": None, "output_norm": True, "branch_scale": 0.22},
    "rounded once": {"norm_kind": RMS_ONCE, "output_norm": True},
    "layer norms": {"norm_kind": LAYER, "output_norm": True, "branch_scale": 1.5},
    "a layer norm, several queries": {"norm_kind": LAYER, "T": 3},
    "rounded once, several queries": {"norm_kind": RMS_ONCE, "output_norm": True, "T": 2},
    **{f"{name}, a gate": {"activation": name} for name in ACTIVATIONS if name != "silu"},
    **{name: {"activation": name, "is_gated": False} for name in ACTIVATIONS if name != "silu"},
    "Gemma's": {"norm_kind": RMS_ONCE, "output_norm": True, "activation": "gelu"},
    "GPT-2's": {"norm_kind": LAYER, "activation": "gelu", "is_gated": False},
}


def make_block(dtypes, *, norm="", output_norm=False, is_gated=True, T=1, **facts):
    """Arguments of a block with such facts, and its options."""
    arguments = make_arguments(dtypes, B=2, C=33, F=50, bias=True, T=T)
    rng, kind = np.random.default_rng(52), facts.get("norm_kind", "rms")
    arguments[2] = None if norm is None else draw_norm(rng, dtypes[1], kind, 33)
    if not is_gated:
        arguments[3] = arguments[6] = None
    return arguments, facts | (
        {"output_norm": draw_norm(rng, dtypes[1], kind, 33)} if output_norm else {}
    )


@pytest.mark.parametrize("name", FACTS)
def test_facts_of_a_block(fusions, dtypes, name):
    arguments, facts = make_block(dtypes, **FACTS[name])
    actual = fusions["norm_mlp_residual"](*arguments, **facts, eps=EPS)
    assert_within(actual, expected(*arguments, **facts))


@pytest.mark.parametrize("name", ["Gemma's", "GPT-2's"])
def test_an_island_in_float64_is_the_compositions_of_other_norms_too(dtypes, name):
    arguments, facts = make_block(dtypes, **FACTS[name])
    y, other = (
        table["norm_mlp_residual"](*arguments, **facts, eps=EPS, island=np.dtype(np.float64))
        for table in (FUSED, FUSIONS)
    )
    np.testing.assert_array_equal(y, other)


@pytest.mark.parametrize("activation", ["gelu", "gelu_erf", "relu", "relu2"])
def test_an_activation_keeps_nan_and_large_numbers(fusions, activation):
    x, eye = np.array([[[1.0, -1.0]]], np.float32), np.eye(2, dtype=np.float32)
    up = np.array([[1e4, 0.0], [0.0, 1e4]], np.float32)
    linears = None, up, eye, None, None, None
    half = fusions["norm_mlp_residual"]
    large = 1e8 if activation == "relu2" else 1e4
    y = half(x, x, None, *linears, activation=activation, eps=0.0)
    ulps = (
        4.0 * np.finfo(np.float32).eps
    )  # of a quotient by way of its divisor's inverse, and a sum
    np.testing.assert_allclose(y, [[[large + 1.0, -1.0]]], rtol=ulps)
    x = np.array([[[np.nan, 1.0]]], np.float32)
    assert np.isnan(half(x, x, None, *linears, activation=activation, eps=0.0)).all()


def test_a_saturated_gate_stays_finite(fusions):
    x = np.array([[[1.0, -1.0]]], np.float32)
    gate = np.array([[2000.0, 0.0], [0.0, 2000.0]], np.float32)  # 2000, where exp overflows; -2000
    eye = np.eye(2, dtype=np.float32)
    norm = np.ones(2, np.float32)
    y = fusions["norm_mlp_residual"](x, x, norm, gate, eye, eye, None, None, None, eps=0.0)
    np.testing.assert_array_equal(y, [[[2001.0, -1.0]]])


def test_weights_of_several_dtypes(fusions):
    arguments = make_arguments(("float32", "float32"), B=2, C=9, F=10, bias=False)
    arguments[3] = arguments[3].astype("bfloat16")
    assert_within(fusions["norm_mlp_residual"](*arguments, eps=EPS), expected(*arguments))


def test_an_island_in_float64_is_the_compositions(dtypes):
    arguments = make_arguments(dtypes, B=2, C=9, F=10, bias=True)
    y, expected = (
        table["norm_mlp_residual"](*arguments, eps=EPS, island=np.dtype(np.float64))
        for table in (FUSED, FUSIONS)
    )
    np.testing.assert_array_equal(y, expected)


def test_threads_and_runs_change_no_bit(fusions, dtypes, on_threads):
    arguments = make_arguments(dtypes, B=5, C=65, F=90, bias=True)
    fusion = fusions["norm_mlp_residual"]
    once, *others = (on_threads(n, fusion, *arguments, eps=EPS) for n in (1, 2, 2))
    for other in others:
        np.testing.assert_array_equal(once, other)

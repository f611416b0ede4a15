"""Adafactor's fused rule, whose step depends on a whole matrix, beside its portable twin."""

import numba
import numpy as np
import pytest
from xplm_numpy.kernels import FUSED_RULES

from tests.backends.numpy.layouts import assert_same_bits, shifted, spread
from tests.helpers import frozen
from xplm.backend import load_backend
from xplm.models.families.config_json import read_config
from xplm.numerics.parity.check_optimizers import check_optimizer
from xplm.numerics.parity.judge import BUG
from xplm.params import ParamSpec
from xplm.runtime import make_runtime
from xplm.train.optimizers import find_optimizer

ADAFACTOR = find_optimizer("adafactor")
FUSED_RULE = FUSED_RULES[ADAFACTOR.rule.__name__]
ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24}
STEPS = 4
LR = 0.1

MATRICES = [(1, 1), (1, 40), (40, 1), (3, 5), (33, 33), (300, 170), (170, 300), (70, 700)]
VECTORS = [(1,), (15,), (40_000,)]
"""The larger ones end within a block of rows."""

every_option = pytest.mark.parametrize(
    "options", [{}, {"weight_decay": 0.1, "clip_threshold": 1.5, "eps2": 2.0}], ids=str
)


def draw(shape, dtype="float32", n=2):
    """Numbers of several magnitudes, as float32 has them."""
    rng = np.random.default_rng([7, *shape])
    arrays = rng.standard_normal((n, *shape)) * 10.0 ** rng.uniform(-2, 2, (n, *shape))
    return [array.astype(np.float32).astype(dtype) for array in arrays]


def begin(options, shape, dtype="float32"):
    """The first moments, and the words that a rule is called with."""
    made = ADAFACTOR.make_options(options)
    spec = ParamSpec("model.layers.0.mlp.up_proj.weight", shape, "normal")
    moments = ADAFACTOR.make_moments(np.zeros(shape, dtype), spec, made)
    return moments, {"spec": spec, "lr": LR, "options": made}


def run(options, shape, moved=frozen):
    """The weights and the moments after STEPS steps, all arrays; the gradients are moved first."""
    param, *grads = draw(shape, n=1 + STEPS)
    moments, rest = begin(options, shape)
    for step, grad in enumerate(grads, start=1):
        given = {key: frozen(moment) for key, moment in moments.items()}
        param, moments = FUSED_RULE(frozen(param), moved(grad), given, step=step, **rest)
    return [param, *moments.values()]


def rounding(param, expected, moments, u):
    """What rounding may do to the step and to each moment.

    All sums are of squares: one of n terms is off by n u of itself at most, in any order. A row's has C terms and a
    column's R. The mean of the rows, and the sums of u^2 and of p^2, are sums over R rows of sums over C numbers, and
    are off by R + C. A step has half of each of these five errors, for it takes their roots, and a dozen roundings of
    its own; decay and the new weight have three.
    """
    R, C = param.shape if param.ndim == 2 else (1, param.size)
    terms = R + C + 12
    taken = abs(expected - param) + LR * abs(param)  # the step alone: decay may have the other sign
    bound = 2.5 * terms * u * taken + 3 * u * abs(param)
    return bound, {key: terms * u * abs(moment) for key, moment in moments.items()}


@pytest.mark.parametrize("shape", [*MATRICES, *VECTORS], ids=str)
@pytest.mark.parametrize("dtype", ROUNDOFF)
@every_option
def test_a_step_is_the_rules(options, shape, dtype):
    # Each step begins from the fused rule's own state, so that errors do not add up.
    moments, rest = begin(options, shape, dtype)
    param, *grads = draw(shape, dtype, n=1 + STEPS)
    for step, grad in enumerate(grads, start=1):
        wide = {key: moment.astype(np.float64) for key, moment in moments.items()}
        exact, exact_grad = param.astype(np.float64), grad.astype(np.float64)
        expected, expected_moments = ADAFACTOR.rule(exact, exact_grad, wide, step=step, **rest)
        found, moments = FUSED_RULE(param, grad, moments, step=step, **rest)
        bound, bounds = rounding(exact, expected, expected_moments, ROUNDOFF[dtype])
        assert found.dtype == dtype
        assert found.shape == shape
        assert np.all(abs(found - expected) <= bound)
        assert moments.keys() == expected_moments.keys()
        for key, moment in expected_moments.items():
            assert moments[key].dtype == dtype
            assert moments[key].shape == moment.shape
            assert np.all(abs(moments[key] - moment) <= bounds[key])
        param = found


@pytest.mark.parametrize(("hidden", "inner"), [(8, 24), (136, 200)])
def test_steps_of_a_model_could_be_rounding(hidden, inner):
    config = read_config(
        {"model_type": "llama", "vocab_size": 150, "hidden_size": hidden}
        | {"intermediate_size": inner, "num_hidden_layers": 1, "num_attention_heads": 2}
    )
    backend = load_backend("numpy")
    test, reference = make_runtime(backend, "fp32"), make_runtime(backend, "fp64", "portable")
    assert test.fused(ADAFACTOR.rule).__wrapped__ is FUSED_RULE
    for verdict in check_optimizer(test, reference, "adafactor", config):
        assert verdict.kind != BUG, (verdict.name, verdict.reason)


@pytest.mark.parametrize("shape", [(300, 170), (70, 700)], ids=str)
def test_bits_are_the_same_for_any_number_of_threads(shape, on_threads):
    most = numba.config.NUMBA_NUM_THREADS
    once, *others = (on_threads(n, run, {}, shape) for n in (1, 2, most, 1))
    for other in others:
        assert_same_bits(other, once)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0,)], ids=str)
def test_what_is_empty_stays_empty(shape):
    moments, rest = begin({}, shape, np.float32)
    param = np.empty(shape, np.float32)
    found, kept = FUSED_RULE(param, param, moments, step=1, **rest)
    assert (found.shape, found.dtype) == (shape, np.float32)
    assert kept.keys() == moments.keys()


@pytest.mark.parametrize("moved", [spread, shifted, np.asfortranarray])
@pytest.mark.parametrize("shape", [(120, 150), (15,)], ids=str)
def test_gradients_lie_as_they_like(shape, moved):
    assert_same_bits(run({}, shape, moved), run({}, shape))


@every_option
@pytest.mark.parametrize(
    "zeros", [np.s_[:], np.s_[:2], np.s_[:, 1:]], ids=["all", "rows", "columns"]
)
def test_numbers_without_a_gradient_only_decay(options, zeros):
    (param, grad), (moments, rest) = draw((6, 4)), begin(options, (6, 4))
    grad[zeros] = 0.0
    found, _ = FUSED_RULE(param, grad, moments, step=1, **rest)
    kept = param * np.float32(1.0 - LR * rest["options"].weight_decay)
    np.testing.assert_array_equal(found[zeros], kept[zeros])
    assert np.isfinite(found).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(6, 4), (5,)], ids=str)
def test_what_is_not_finite_shows(shape, bad):
    (param, grad), (moments, rest) = draw(shape), begin({}, shape)
    grad.reshape(-1)[3] = bad
    with np.errstate(all="ignore"):
        found, _ = FUSED_RULE(param, grad, moments, step=1, **rest)
        expected, _ = ADAFACTOR.rule(param, grad, moments, step=1, **rest)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))

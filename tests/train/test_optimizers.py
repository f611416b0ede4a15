"""Optimizers: numbers by hand, the papers' own loops, and what every one of them must keep."""

import math

import numpy as np
import pytest
from safetensors.numpy import load, save

from tests.helpers import assert_on, frozen, to_numpy
from tests.train.quadratic import LR, SPECS, run_steps
from xplm.errors import RequestError
from xplm.models.decoder import param_specs
from xplm.models.families.config_json import read_config
from xplm.params import ParamSpec
from xplm.train.optimizers import OPTIMIZERS, OptimizerState, find_optimizer
from xplm.train.optimizers.muon import MuonOptions, newton_schulz

MATRIX = "model.layers.0.mlp.up_proj.weight"
VECTOR = "model.norm.weight"


def one_step(name, param, grads, *, lr=0.1, key=MATRIX, **options):
    """One parameter after the given gradients, in float64."""
    optimizer = find_optimizer(name)
    made = optimizer.make_options(options)
    param = np.asarray(param, np.float64)
    specs = {key: ParamSpec(key, param.shape, "normal")}
    params = {key: param}
    state = optimizer.init(params, specs, made)
    for grad in grads:
        grad = {key: np.asarray(grad, np.float64)}
        params, state = optimizer.update(params, grad, state, specs, lr=lr, options=made)
    return params[key]


def close(actual, expected):
    """Equal to within a few roundings of float64."""
    np.testing.assert_allclose(actual, expected, rtol=1e-14, atol=1e-15)


def test_sgd_by_hand():
    close(one_step("sgd", [[1.0]], [[[2.0]]]), [[0.8]])
    # buffer: 2, then 0.5 * 2 + 1 = 2
    close(one_step("sgd", [[1.0]], [[[2.0]], [[1.0]]], momentum=0.5), [[1.0 - 0.2 - 0.2]])
    # steps: 2 + 0.5 * 2 = 3, then 1 + 0.5 * 2 = 2
    twice = one_step("sgd", [[1.0]], [[[2.0]], [[1.0]]], momentum=0.5, nesterov=True)
    close(twice, [[1.0 - 0.3 - 0.2]])
    close(one_step("sgd", [[1.0]], [[[2.0]]], weight_decay=3.0), [[1.0 - 0.1 * (2.0 + 3.0)]])


def test_adam_moves_by_the_learning_rate_at_first():
    # m^ = g and v^ = g^2, whatever the betas: the step is lr sign(g)
    close(one_step("adam", [[1.0, 1.0]], [[[4.0, -0.01]]], eps=0.0), [[0.9, 1.1]])


def test_adam_by_hand_over_two_steps():
    # m: 0.5, 0.75; m^: 1, 1.  v: 0.25, 0.4375; v^: 1, 0.4375 / 0.4375 = 1
    beta = {"beta1": 0.5, "beta2": 0.75, "eps": 1.0}
    close(one_step("adam", [[1.0]], [[[1.0]], [[1.0]]], **beta), [[1.0 - 0.05 - 0.05]])


def test_adam_decays_through_the_moments_and_adamw_beside_them():
    # The penalty's gradient is 20 times the loss's; Adam's first step has length lr all the same.
    close(one_step("adam", [[2.0]], [[[0.1]]], eps=0.0, weight_decay=1.0), [[1.9]])
    close(one_step("adamw", [[2.0]], [[[0.1]]], eps=0.0, weight_decay=1.0), [[2.0 * 0.9 - 0.1]])


def test_lion_by_hand():
    # c: 0.1 * 1 > 0; m = 0.01.  c: 0.9 * 0.01 - 0.1 * 0.05 = 0.004 > 0 although the gradient is negative
    close(one_step("lion", [[1.0]], [[[1.0]], [[-0.05]]]), [[1.0 - 0.1 - 0.1]])
    close(one_step("lion", [[1.0]], [[[1.0]]], weight_decay=2.0), [[1.0 * 0.8 - 0.1]])


def test_adafactor_by_hand():
    # g^2 is of rank one, so the factors hold it exactly and u = sign(g), of rms 1. rms(p) = 2, and lr < 1.
    grad = np.outer([1.0, -2.0, 3.0], [1.0, 10.0])
    param = np.full((3, 2), 2.0)
    close(one_step("adafactor", param, [grad], lr=0.1), param - 0.2 * np.sign(grad))
    # A vector of zeros counts as one of rms eps2.
    close(one_step("adafactor", [0.0], [[5.0]], key=VECTOR, eps2=0.5), [-0.05])


def test_adafactor_takes_less_of_a_gradient_that_grows():
    # u = 1 at first. The second v = beta 1 + (1 - beta) 16^2 lags behind 16^2, so u = 16 / sqrt(v) = 1.3 is cut.
    grads = [[1.0], [16.0]]
    close(one_step("adafactor", [2.0], grads, key=VECTOR), [2.0 * 0.9 * 0.9])
    wider = one_step("adafactor", [2.0], grads, key=VECTOR, clip_threshold=1.25)
    close(wider, [2.0 * 0.9 * (1.0 - 0.1 * 1.25)])


def muon_length(s=1.0):
    """What the iteration makes of a matrix of one singular value."""
    a, b, c = MuonOptions.COEFFICIENTS
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    return s


@pytest.mark.parametrize(
    ("shape", "original", "match_rms_adamw"),
    [((1, 1), 1.0, 0.2), ((1, 4), 1.0, 0.4), ((4, 1), 2.0, 0.4)],
)
def test_muon_of_one_row_or_column(shape, original, match_rms_adamw):
    param, grad = np.full(shape, 2.0), np.arange(1.0, 5.0)[: max(shape)].reshape(shape)
    step = 0.1 * muon_length() * grad / np.linalg.norm(grad)
    options = {"weight_decay": 0.5}
    close(one_step("muon", param, [grad], **options), 0.95 * param - match_rms_adamw * step)
    ours = one_step("muon", param, [grad], adjust_lr="original", **options)
    close(ours, 0.95 * param - original * step)


def test_muon_by_hand_over_two_steps():
    grads = [[[4.0, 0.0]], [[0.0, 4.0]]]
    options = {"momentum": 0.75, "weight_decay": 0.0, "adjust_lr": "original", "lr": 1.0}
    # buffer: (1, 0), then (0.75, 1); Nesterov's direction at last: 0.75 (0.75, 1) + 0.25 (0, 4) = (0.5625, 1.75)
    first = np.array([[1.0, 0.0]])
    plain = first + np.array([[0.75, 1.0]]) / 1.25
    ahead = first + np.array([[0.5625, 1.75]]) / math.hypot(0.5625, 1.75)
    zero = np.zeros((1, 2))
    close(one_step("muon", zero, grads, nesterov=False, **options), -muon_length() * plain)
    close(one_step("muon", zero, grads, **options), -muon_length() * ahead)


@pytest.mark.parametrize("shape", [(6, 6), (3, 8), (8, 3), (1, 5)])
def test_newton_schulz_keeps_the_singular_vectors_and_lifts_the_values(shape):
    x = np.random.default_rng(0).standard_normal(shape)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    assert s.min() > 0.005 * np.linalg.norm(x)  # where the iteration is stated to work
    inner = u.T @ newton_schulz(x, steps=5) @ vt.T
    values = np.diag(inner)
    assert ((values > 0.68) & (values < 1.16)).all()
    np.testing.assert_allclose(inner, np.diag(values), atol=1e-12)


def test_newton_schulz_of_zero_is_zero():
    assert not newton_schulz(np.zeros((3, 4), np.float32), steps=5).any()


def test_the_rest_of_muon_is_adamw():
    shared = {"beta1": 0.8, "beta2": 0.9, "eps": 1e-6, "weight_decay": 0.3}
    names = {name for name in SPECS if not SPECS[name].is_hidden_matrix}
    muon = run_steps("muon", {"adamw_lr_ratio": 0.25, **shared})
    adamw = run_steps("adamw", shared, lr=0.25 * LR)
    assert {"model.embed_tokens.weight", "lm_head.weight"} < names < set(SPECS)
    for name in names:
        np.testing.assert_array_equal(muon[name], adamw[name])


@pytest.mark.parametrize("family", ["llama", "gpt2", "starcoder2"])
def test_muon_takes_every_matrix_of_every_block(family):
    sizes = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    names = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 4, "intermediate_size": 12}
    specs = param_specs(read_config({"model_type": family, **sizes, **names}))
    params = {name: np.zeros(spec.shape, np.float32) for name, spec in specs.items()}
    muon = OPTIMIZERS["muon"]
    moments = muon.init(params, specs, muon.make_options({})).moments
    taken = {key.partition(".")[2] for key in moments if key.startswith("momentum_buffer.")}
    assert taken == {name for name in specs if name.endswith("_proj.weight")}
    assert len(taken) == 2 * (7 if family == "llama" else 6)


def lion_of_the_paper(params, grads, *, lr, beta1, beta2, decay):
    """Algorithm 2 of arXiv:2302.06675, a number at a time."""
    momentum = [0.0] * len(params)
    for grad in grads:
        for i, g in enumerate(grad):
            update = beta1 * momentum[i] + (1 - beta1) * g
            sign = (update > 0) - (update < 0)
            params[i] -= lr * (sign + decay * params[i])
            momentum[i] = beta2 * momentum[i] + (1 - beta2) * g
    return params


def test_lion_equals_the_papers_algorithm():
    rng = np.random.default_rng(3)
    param, grads = rng.standard_normal(7), rng.standard_normal((10, 7))
    options = {"beta1": 0.9, "beta2": 0.99}
    paper = lion_of_the_paper(param.tolist(), grads.tolist(), lr=0.02, decay=0.3, **options)
    ours = one_step("lion", param[None], grads[:, None], lr=0.02, weight_decay=0.3, **options)
    np.testing.assert_allclose(ours[0], paper, rtol=0, atol=1e-14)


def adafactor_of_the_paper(x, grads, *, lr, eps2=1e-3):
    """Algorithm 4 of arXiv:1804.04235 with d = 1 and beta_t = 1 - t^-0.8, in sums; eps1 is left out."""
    n, m = x.shape
    rows, columns = np.zeros((n, 1)), np.zeros((1, m))
    for t, g in enumerate(grads, start=1):
        alpha = max(eps2, np.sqrt(np.mean(x**2))) * min(lr, 1 / math.sqrt(t))
        beta = 1 - t**-0.8
        rows = beta * rows + (1 - beta) * (g**2) @ np.ones((m, 1))
        columns = beta * columns + (1 - beta) * np.ones((1, n)) @ g**2
        u = g / np.sqrt(rows @ columns / (np.ones((1, n)) @ rows))
        x = x - alpha * u / max(1.0, np.sqrt(np.mean(u**2)))
    return x


@pytest.mark.parametrize("lr", [0.01, 0.9])
def test_adafactor_equals_the_papers_algorithm(lr):
    rng = np.random.default_rng(4)
    param, grads = rng.standard_normal((5, 3)), rng.standard_normal((10, 5, 3))
    ours = one_step("adafactor", param, grads, lr=lr)
    expected = adafactor_of_the_paper(param, grads, lr=lr)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_shrinks_matrices_and_leaves_vectors_alone(name):
    optimizer = OPTIMIZERS[name]
    options = optimizer.make_options({"weight_decay": 0.25})
    params = {key: np.full(spec.shape, 2.0, np.float32) for key, spec in SPECS.items()}
    grads = {key: np.zeros_like(param) for key, param in params.items()}
    state = optimizer.init(params, SPECS, options)
    new, _ = optimizer.update(params, grads, state, SPECS, lr=0.5, options=options)
    for key, spec in SPECS.items():
        # SGD and AdamW's kind: 2 (1 - lr decay). In Adam the penalty's is a gradient like another: a step of lr.
        shrunk = 1.5 if name == "adam" else 1.75
        expected = shrunk if len(spec.shape) > 1 else 2.0
        np.testing.assert_allclose(new[key], expected, rtol=1e-6)


@pytest.mark.nightly_on("jax")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_backend_takes_the_same_steps(name, backend):
    expected = run_steps(name, {})
    params = run_steps(name, {}, backend=backend)
    for key, array in params.items():
        assert_on(backend, array, dtype="float32", shape=SPECS[key].shape)
        # 10 steps on weights of size 1, a few roundings of 2^-24 each
        np.testing.assert_allclose(to_numpy(backend, array), expected[key], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_writes_into_nothing_it_is_given(name):
    optimizer = OPTIMIZERS[name]
    options = optimizer.make_options({"momentum": 0.9} if name == "sgd" else {})
    rng = np.random.default_rng(5)
    params, grads = (
        {key: frozen(rng.standard_normal(spec.shape)) for key, spec in SPECS.items()}
        for _ in range(2)
    )
    state = optimizer.init(params, SPECS, options)
    for _ in range(2):
        for array in state.moments.values():
            array.flags.writeable = False
        kept = dict(state.moments)
        once, _ = optimizer.update(params, grads, state, SPECS, lr=0.1, options=options)
        again, later = optimizer.update(params, grads, state, SPECS, lr=0.1, options=options)
        assert state.moments == kept  # the same arrays, which cannot be written to
        for key in SPECS:
            assert once[key].dtype == np.float64
            np.testing.assert_array_equal(once[key], again[key])
        state = later


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_saved_and_loaded_goes_on_bitwise(name):
    options = {"momentum": 0.9} if name == "sgd" else {}

    def save_and_load(state):
        return OptimizerState(state.step, load(save(dict(state.moments))))

    whole, broken = run_steps(name, options), run_steps(name, options, between=save_and_load)
    for key in SPECS:
        np.testing.assert_array_equal(whole[key], broken[key])


def test_adafactor_keeps_a_row_and_a_column():
    optimizer = OPTIMIZERS["adafactor"]
    params = {key: np.zeros(spec.shape, np.float32) for key, spec in SPECS.items()}
    state = optimizer.init(params, SPECS, optimizer.make_options({}))
    assert state.moments[f"row_var.{MATRIX}"].shape == (5, 1)
    assert state.moments[f"col_var.{MATRIX}"].shape == (1, 4)
    assert state.moments[f"variance.{VECTOR}"].shape == (4,)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("adamw", {"beta3": 0.9}, "unknown beta3"),
        ("adamw", {"beta2": 1.0}, "beta2 must be a number, at least 0.0 and below 1.0; got 1.0"),
        ("adam", {"eps": "small"}, "eps must be a number"),
        ("lion", {"beta1": True}, "beta1 must be a number"),
        ("adamw", {"weight_decay": -0.1}, "weight_decay must be a number, at least 0.0;"),
        ("adamw", {"weight_decay": math.nan}, "weight_decay must be"),
        ("sgd", {"nesterov": True}, "momentum above 0"),
        ("adafactor", {"decay_rate": 0.5}, "decay_rate must be"),
        ("adafactor", {"clip_threshold": 0.5}, "clip_threshold must be"),
        ("muon", {"ns_steps": 0}, "ns_steps must be an integer"),
        ("muon", {"adjust_lr": "none"}, "adjust_lr must be"),
    ],
)
def test_options_out_of_range_are_refused_in_one_line(name, options, words):
    with pytest.raises(RequestError) as caught:
        OPTIMIZERS[name].make_options(options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_optimizer_is_refused_with_the_list():
    with pytest.raises(RequestError, match=r"sgd, adam, adamw, lion, adafactor, muon.*\"adamax\""):
        find_optimizer("adamax")

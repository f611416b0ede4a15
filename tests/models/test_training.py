"""The training pass against itself: cut into micro-batches, recomputed, repeated, and on another address space."""

import numpy as np
import pytest

from tests.kinds import every_kind
from xplm.backend import load_backend
from xplm.models.decoder import forward, param_specs
from xplm.models.head import IGNORE_INDEX
from xplm.models.training import loss_and_grads
from xplm.numerics.gradient_check import relative_errors
from xplm.numerics.tiny_models import TINY_MODELS, draw_params, tiny_config
from xplm.params import accumulate, init_params
from xplm.precision import cast
from xplm.runtime import make_runtime
from xplm.train.clip import clip_by_global_norm
from xplm.train.dropout import make_drop
from xplm.train.optimizers import find_optimizer

ROWS, LENGTH, VOCABULARY = 8, 9, 7
COUNTS = LENGTH - np.array([0, 2, 0, 1, 0, 0, 4, 0])  # the rest of a row is padding
EVERY = every_kind
TWO = pytest.mark.parametrize("name", ["llama", "gpt2"])


class Pass:
    """A tiny model on a backend, and a batch in which a third of the targets is not scored."""

    def __init__(self, backend, name, policy="fp32"):
        self.rt = make_runtime(backend, policy)
        self.config = tiny_config(TINY_MODELS[name])
        self.specs = param_specs(self.config)
        self.params = {
            key: cast(backend.from_host(array), self.rt.dtype.param)
            for key, array in draw_params(self.specs, seed=5).items()
        }
        rng = np.random.default_rng(6)
        self.ids = rng.integers(0, VOCABULARY, (ROWS, LENGTH))
        self.targets = rng.integers(0, VOCABULARY, (ROWS, LENGTH))
        self.targets[rng.random((ROWS, LENGTH)) < 0.3] = IGNORE_INDEX
        self.targets[np.arange(LENGTH) >= COUNTS[:, None]] = IGNORE_INDEX
        self.n_targets = int(np.sum(self.targets != IGNORE_INDEX))

    def __call__(self, rows=slice(None), **options):
        backend = self.rt.backend
        loss, grads = loss_and_grads(
            self.rt,
            self.config,
            self.params,
            backend.from_host(self.ids[rows]),
            backend.from_host(self.targets[rows]),
            **{"n_targets": self.n_targets} | options,
        )
        host = {name: np.asarray(backend.to_host(array)) for name, array in grads.items()}
        return float(backend.to_host(loss)), host


@EVERY
@pytest.mark.parametrize("policy", ["fp64", "fp32"])
def test_four_unequal_micro_batches_add_up_to_one_batch(numpy_backend, name, policy):
    run = Pass(numpy_backend, name, policy)
    run.params = init_params(run.rt, run.specs, seed=7)
    cuts = [slice(0, 1), slice(1, 4), slice(4, 5), slice(5, 8)]
    scored = {int(np.sum(run.targets[cut] != IGNORE_INDEX)) for cut in cuts}
    assert len(scored) > 2, "they score different numbers of targets"

    loss, grads = run()
    total, summed = 0.0, {}
    for cut in cuts:
        part, more = run(cut)
        total, summed = total + part, accumulate(summed, more)
    # Of the largest number in any gradient: 16 roundings of float32, or 500 of float64.
    bound = {"fp64": 1e-13, "fp32": 1e-6}[policy]
    size = max(np.abs(array).max() for array in grads.values())
    assert abs(total - loss) <= bound * loss
    assert max(np.abs(summed[name] - grads[name]).max() for name in grads) <= bound * size


@EVERY
def test_recompute_changes_no_bit(numpy_backend, name):
    run = Pass(numpy_backend, name)
    drop = make_drop(run.rt, 0.2, seed=1, step=2, micro=3)
    for options in ({}, {"drop": drop}):
        loss, grads = run(**options)
        again, recomputed = run(**options, recompute=True)
        assert loss == again
        assert_same_bits(grads, recomputed)


@TWO
def test_the_same_pass_twice_is_the_same_bits(numpy_backend, name):
    run = Pass(numpy_backend, name)
    (loss, grads), (again, repeated) = run(), run()
    assert loss == again
    assert_same_bits(grads, repeated)


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].tobytes() == other[name].tobytes(), name


@EVERY
def test_the_loss_is_that_of_the_forward_pass(numpy_backend, name):
    """Mean of -log p over scored targets, from the logits that generation sees, in float64."""
    run = Pass(numpy_backend, name, "fp64")
    logits = forward(run.rt, run.config, run.params, run.ids)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    scored = run.targets != IGNORE_INDEX
    target = np.take_along_axis(log_p, np.where(scored, run.targets, 0)[..., None], -1)[..., 0]
    assert abs(run()[0] + target[scored].mean()) < 1e-12


@TWO
def test_what_padding_and_unscored_targets_hold_does_not_matter(numpy_backend, name):
    run = Pass(numpy_backend, name)
    _, grads = run()
    run.ids[np.arange(LENGTH) >= COUNTS[:, None]] = 3
    _, others = run()
    for name in grads:
        np.testing.assert_array_equal(grads[name], others[name])


@TWO
def test_a_loss_scale_multiplies_gradients_alone(numpy_backend, name):
    run = Pass(numpy_backend, name)
    loss, grads = run()
    same, scaled = run(loss_scale=1024.0)
    assert same == loss
    for name in grads:  # a power of two changes the exponent only
        np.testing.assert_array_equal(scaled[name], 1024.0 * grads[name])


@EVERY
def test_no_argument_is_written_to(numpy_backend, name):
    run = Pass(numpy_backend, name)
    for array in (*run.params.values(), run.ids, run.targets):
        array.flags.writeable = False
    assert np.isfinite(run()[0])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.nightly_on("jax")) for name in TINY_MODELS]
)
def test_gradients_are_wide_and_shaped_like_their_parameters(backend, name):
    run = Pass(backend, name)
    _, grads = run()
    assert {key: grads[key].shape for key in grads} == {k: s.shape for k, s in run.specs.items()}
    assert {array.dtype for array in grads.values()} == {np.dtype(np.float32)}


@EVERY
def test_a_training_step_where_a_copy_through_the_host_raises(device1, name):
    """Loss, gradients and three AdamW steps on array-api-strict's second device, and the same on NumPy."""
    strict, numpy = train(device1, name), train(load_backend("numpy"), name)
    np.testing.assert_allclose(strict[0], numpy[0], rtol=1e-5)
    assert max(relative_errors(strict[1], numpy[1]).values()) <= 1e-5


@pytest.mark.cuda
@EVERY
def test_a_training_step_on_a_gpu(name):
    cupy = pytest.importorskip("cupy", reason="needs CuPy")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        pytest.skip("needs an NVIDIA GPU")
    gpu, numpy = train(load_backend("cupy", "cuda"), name), train(load_backend("numpy"), name)
    np.testing.assert_allclose(gpu[0], numpy[0], rtol=1e-5)
    assert max(relative_errors(gpu[1], numpy[1]).values()) <= 1e-5


def train(backend, name):
    """Losses of three steps, and the weights after them."""
    run = Pass(backend, name)
    optimizer = find_optimizer("adamw")
    # An eps that is not lost beside a gradient of zero keeps rounding from becoming a step.
    options = optimizer.make_options({"eps": 1e-3})
    state = optimizer.init(run.params, run.specs, options)
    losses = []
    for step in range(3):
        drop = make_drop(run.rt, 0.1, seed=0, step=step, micro=0)
        loss, grads = run(drop=drop)
        losses.append(loss)
        on_device = {key: backend.from_host(array) for key, array in grads.items()}
        on_device, _ = clip_by_global_norm(on_device, 1.0)
        run.params, state = optimizer.update(
            run.params, on_device, state, run.specs, lr=1e-2, options=options
        )
    return losses, {key: np.asarray(backend.to_host(a)) for key, a in run.params.items()}

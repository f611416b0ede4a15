"""Stochastic rounding: right on average, the same for the same seed, through forward and backward passes."""

import math

import numpy as np
import pytest

from tests.tiny import draw_ids, make_config, make_params
from xplm.emulation import emulate, stochastic
from xplm.formats import FORMATS, find_format
from xplm.models.training import loss_and_grads
from xplm.precision import Policy, cast
from xplm.runtime import make_runtime


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_casts_are_right_on_average(numpy_backend, dtype):
    # Hoeffding, as in test_formats: beyond the bound once in 1e9 draws.
    backend = emulate(numpy_backend, Policy.parse("fp8"), stochastic(numpy_backend, 1))
    n, format = 10**5, FORMATS["float8_e4m3fn"]
    x = backend.from_host(np.full(n, 0.3, dtype))
    found = backend.to_host(cast(x, backend.dtypes[format.name])).astype(np.float64)
    assert set(found) == {0.28125, 0.3125}
    assert abs(found.mean() - 0.3) < 2.0**-5 * math.sqrt(math.log(2e9) / (2 * n))


def train(rt):
    """The gradient of a tiny model's first projection."""
    config = make_config()
    ids = rt.backend.from_host(draw_ids(42, 2, 6))
    _, grads = loss_and_grads(rt, config, make_params(rt, config), ids, ids, n_targets=12)
    return rt.backend.to_host(grads["model.layers.0.self_attn.v_proj.weight"]).astype(np.float64)


@pytest.mark.nightly_on("jax")
@pytest.mark.parametrize("policy", ["bf16", "e5m7,accumulate=bf16"])
def test_models_train_with_it(backend, policy):
    def train_with(seed):
        return train(make_runtime(backend, policy, rounding=stochastic(backend, seed)))

    first = train_with(0)
    if backend.name in ("numpy", "strict"):  # another library may sum in another order each time
        np.testing.assert_array_equal(train_with(0), first)
    assert (train_with(1) != first).any()
    # Some 40 roundings lie on the way, each of which moves a number by less than an eps, none much amplified.
    exact = train(make_runtime(backend, "fp32"))
    eps = max(find_format(name).eps for name in Policy.parse(policy).dtypes)
    assert np.linalg.norm(first - exact) < 40 * eps * np.linalg.norm(exact)

"""Layers, against the same composition written with naive ops, in float64."""

import numpy as np
import pytest

from tests import naive
from tests.helpers import Place, assert_close, assert_on, pure
from tests.tiny import facts, make_config, make_params
from xplm.cache import KVCache
from xplm.layers.attention import attention_layer_fwd
from xplm.layers.block import block_fwd
from xplm.layers.mlp import mlp_fwd
from xplm.models.decoder import make_context
from xplm.runtime import make_runtime

NAME = "model.layers.1"
BOUND = (
    1e-12  # sums of at most 24 terms, of order 1, a few layers deep, in float64: 2^-53 * 24 * ~100
)


def setup(backend, **changes):
    rt = make_runtime(backend, "fp64")
    config = make_config(**changes)
    params = make_params(rt, config)
    host = {name: np.asarray(backend.to_host(array)) for name, array in params.items()}
    x = np.random.default_rng(20).standard_normal((2, 5, config.hidden_size))
    return rt, config, params, host, x


def naive_attention(config, p, x):
    B, T, _ = x.shape
    positions = np.broadcast_to(np.arange(T), (B, T))
    D = facts(config).head_dim
    inv_freq = facts(config).rope.rope_theta ** (-np.arange(0, D, 2) / D)

    def heads(part):
        name = f"{NAME}.self_attn.{part}_proj"
        y = naive.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))
        return y.reshape(B, T, -1, D).transpose(0, 2, 1, 3)

    q, k = (naive.rope(heads(part), positions, inv_freq, 1.0) for part in "qk")
    y, _ = naive.attention(
        q, k, heads("v"), start=0, scale=D**-0.5, window=facts(config).windows[1]
    )
    o = f"{NAME}.self_attn.o_proj"
    rows = y.transpose(0, 2, 1, 3).reshape(B, T, -1)
    return naive.linear(rows, p[f"{o}.weight"], p.get(f"{o}.bias"))


def run_attention(rt, config, params, x, context):
    spec, context = config.blocks[1].mixer, context._replace(layer=1)
    return attention_layer_fwd(rt, spec, params, f"{NAME}.self_attn", x, context)


def naive_mlp(p, x, act=naive.silu):
    def project(rows, part):
        name = f"{NAME}.mlp.{part}_proj"
        return naive.linear(rows, p[f"{name}.weight"], p.get(f"{name}.bias"))

    return project(act(project(x, "gate")) * project(x, "up"), "down")


@pytest.mark.nightly_on("jax")
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.nightly_on("jax")),
        pytest.param({"attention_bias": True}, marks=pytest.mark.nightly_on("jax")),
        pytest.param({"head_dim": 10}, marks=pytest.mark.nightly_on("jax")),
        {"model_type": "mistral", "sliding_window": 2},
    ],
    ids=str,
)
def test_attention_layer(backend, changes):
    rt, config, params, p, x = setup(backend, **changes)
    context = make_context(rt, config, 5)
    on_device = Place(backend, "float64").array(x)
    y, saved = pure(backend, lambda x: run_attention(rt, config, params, x, context), on_device)
    assert_close(backend, y, naive_attention(config, p, x), dtype="float64", bound=BOUND)
    assert saved.q.x is on_device


@pytest.mark.nightly_on("jax")
def test_attention_layer_in_two_steps_of_a_cache(backend):
    rt, config, params, p, x = setup(backend)
    place = Place(backend, "float64")
    cache = KVCache.allocate(rt, config, batch=2, capacity=5)
    expected = naive_attention(config, p, x)
    for rows in (slice(0, 3), slice(3, 5)):
        T = rows.stop - rows.start
        context = make_context(rt, config, T, cache)
        y, _ = run_attention(rt, config, params, place.array(x[:, rows]), context)
        assert_close(backend, y, expected[:, rows], dtype="float64", bound=BOUND)
        cache.advance((T, T))


@pytest.mark.nightly_on("jax")
@pytest.mark.parametrize("act", ["silu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("mlp_bias", [False, True])
def test_mlp(backend, mlp_bias, act):
    rt, config, params, p, x = setup(backend, mlp_bias=mlp_bias, hidden_act=act)
    on_device = Place(backend, "float64").array(x)
    spec, context = config.blocks[1].mlp, make_context(rt, config, 5)
    y, saved = pure(
        backend, lambda x: mlp_fwd(rt, spec, params, f"{NAME}.mlp", x, context), on_device
    )
    expected = naive_mlp(p, x, naive.ACTIVATIONS[spec.activation])
    assert_close(backend, y, expected, dtype="float64", bound=BOUND)
    assert saved.gate.x is on_device
    assert_on(backend, saved.down.x, dtype="float64", shape=(2, 5, 24))


def test_block_adds_both_halves_to_the_residual(backend):
    rt, config, params, p, x = setup(backend)
    context = make_context(rt, config, 5)
    on_device = Place(backend, "float64").array(x)
    y, saved = pure(
        backend, lambda x: block_fwd(rt, config.blocks[1], params, 1, x, context), on_device
    )

    eps = facts(config).norm_eps
    middle = x + naive_attention(
        config, p, naive.rms_norm(x, p[f"{NAME}.input_layernorm.weight"], eps)
    )
    norm = naive.rms_norm(middle, p[f"{NAME}.post_attention_layernorm.weight"], eps)
    assert_close(backend, y, middle + naive_mlp(p, norm), dtype="float64", bound=BOUND)
    assert_close(backend, saved.mlp_norm.x, middle, dtype="float64", bound=BOUND)


@pytest.mark.nightly_on("jax")
@pytest.mark.parametrize("T", [1, 3])
def test_attention_layer_over_rows_of_different_lengths(backend, T):
    rt, config, params, p, _ = setup(backend, head_dim=6)
    place = Place(backend, "float64")
    x = np.random.default_rng(21).standard_normal((3, 8, config.hidden_size))
    expected = naive_attention(config, p, x)
    cache, begins = KVCache.allocate(rt, config, batch=3, capacity=8), (1, 5, 3)
    context = make_context(rt, config, 5, cache)
    run_attention(rt, config, params, place.array(x[:, :5]), context)
    cache.advance(begins)

    rows = [slice(n, n + T) for n in begins]
    new = place.array(np.stack([x[b, row] for b, row in enumerate(rows)]))
    y, _ = run_attention(rt, config, params, new, make_context(rt, config, T, cache))
    alone = np.stack([expected[b, row] for b, row in enumerate(rows)])
    assert_close(backend, y, alone, dtype="float64", bound=BOUND)


@pytest.mark.parametrize("T", [1, 4])
def test_context_counts_positions_from_each_rows_length(backend, T):
    rt, config, _, _, _ = setup(backend)
    cache = KVCache.allocate(rt, config, batch=2, capacity=8)
    cache.advance((1, 3))
    context = make_context(rt, config, T, cache)
    positions = np.arange(T) + np.array([[1], [3]])
    angles = positions[:, None, :, None] * 10000.0 ** (-np.arange(0, 4, 2) / 4)
    # sin and cos of angles up to 6, each angle rounded twice.
    cos, sin = context.ropes[config.ropes[0]]
    assert_close(backend, cos, np.cos(angles), dtype="float64", bound=20 * 2.0**-53)
    assert_close(backend, sin, np.sin(angles), dtype="float64", bound=20 * 2.0**-53)
    assert backend.to_host(context.rows.starts).tolist() == [1, 3]
    assert (context.rows.begins, context.cache) == ((1, 3), cache)


def test_rows_of_one_length_share_their_tables(numpy_backend):
    rt, config, _, _, _ = setup(numpy_backend)
    cache = KVCache.allocate(rt, config, batch=3, capacity=8)
    cache.advance((2, 2, 2))
    cos, sin = make_context(rt, config, 4, cache).ropes[config.ropes[0]]
    assert cos.shape == sin.shape == (1, 1, 4, 2)


def test_a_pass_without_a_cache_begins_at_position_zero(numpy_backend):
    rt, config, _, _, _ = setup(numpy_backend)
    context = make_context(rt, config, 3)
    assert (context.cache, context.rows) == (None, None)
    sin = context.ropes[config.ropes[0]].sin[0, 0, :, 0]  # of angles 0, 1, 2
    np.testing.assert_allclose(sin, np.sin([0.0, 1.0, 2.0]), atol=2.0**-52)

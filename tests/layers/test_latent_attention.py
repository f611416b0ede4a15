"""Latent attention, against the same composition written with naive ops, in float64."""

from dataclasses import replace

import numpy as np
import pytest

from tests import naive
from tests.helpers import Place, assert_close, pure
from xplm.cache import KVCache
from xplm.kernels import PORTABLE
from xplm.kernels.fusions import FUSIONS
from xplm.layers.latent_attention import is_absorbing_cheaper, latent_attention_layer_fwd
from xplm.models.decoder import make_context, param_specs
from xplm.numerics.tiny_models import TINY_MODELS, draw_params, tiny_config
from xplm.rope_scaling import inverse_frequencies
from xplm.runtime import make_runtime

NAME = "model.layers.1.self_attn"
NAMES = [name for name in TINY_MODELS if name.startswith("deepseek")]
BOUND = 1e-12
"""As in tests/layers/test_layers.py."""


class Layer:
    """A layer on a backend, and what the naive one makes of 8 positions of 3 rows."""

    def __init__(self, backend, name):
        self.rt = make_runtime(backend, "fp64")
        self.config = tiny_config(TINY_MODELS[name])
        self.spec = self.config.blocks[1].mixer
        host = draw_params(param_specs(self.config), seed=5)
        self.params = {key: backend.from_host(array) for key, array in host.items()}
        self.x = np.random.default_rng(20).standard_normal((3, 8, self.config.hidden_size))
        own = {key.removeprefix(f"{NAME}."): a for key, a in host.items() if key.startswith(NAME)}
        frequencies = inverse_frequencies(self.spec.rope, length=8)
        self.expected = naive.latent_attention(self.spec, own, self.x, *frequencies)

    def run(self, x, cache=None):
        context = make_context(self.rt, self.config, x.shape[1], cache)._replace(layer=1)
        return latent_attention_layer_fwd(self.rt, self.spec, self.params, NAME, x, context)


@pytest.fixture(params=NAMES)
def layer(request, backend):
    return Layer(backend, request.param)


@pytest.mark.nightly_on("jax")
def test_equals_one_head_at_a_time(layer, backend):
    on_device = Place(backend, "float64").array(layer.x)
    y, saved = pure(backend, layer.run, on_device)
    assert_close(backend, y, layer.expected, dtype="float64", bound=BOUND)
    assert saved.kv_a.x is on_device


@pytest.mark.nightly_on("jax")
@pytest.mark.parametrize("steps", [(5, 3), (5, 1, 1, 1), (1, 7)], ids=str)
def test_over_a_cache(layer, backend, steps):
    """Steps of one token are absorbed, longer ones expanded."""
    assert is_absorbing_cheaper(layer.spec, 1, 6)
    assert not is_absorbing_cheaper(layer.spec, 3, 8)
    cache = KVCache.allocate(layer.rt, layer.config, batch=3, capacity=9)
    begin = 0
    for T in steps:
        x = Place(backend, "float64").array(layer.x[:, begin : begin + T])
        y, saved = layer.run(x, cache)
        assert saved.attention is None
        expected = layer.expected[:, begin : begin + T]
        assert_close(backend, y, expected, dtype="float64", bound=BOUND)
        cache.advance((T,) * 3)
        begin += T


@pytest.mark.nightly_on("jax")
@pytest.mark.parametrize("T", [1, 3])
def test_over_rows_of_different_lengths(layer, backend, T):
    place = Place(backend, "float64")
    cache, begins = KVCache.allocate(layer.rt, layer.config, batch=3, capacity=8), (1, 5, 3)
    layer.run(place.array(layer.x[:, :5]), cache)
    cache.advance(begins)
    rows = [slice(n, n + T) for n in begins]
    y, _ = layer.run(place.array([layer.x[b, row] for b, row in enumerate(rows)]), cache)
    alone = np.stack([layer.expected[b, row] for b, row in enumerate(rows)])
    assert_close(backend, y, alone, dtype="float64", bound=BOUND)


def test_without_the_fusion_latents_are_expanded(numpy_backend):
    layer = Layer(numpy_backend, NAMES[0])
    table = PORTABLE | {n: f for n, f in FUSIONS.items() if n != "absorbed_attention"}
    layer.rt = replace(layer.rt, kernels=table)
    cache = KVCache.allocate(layer.rt, layer.config, batch=3, capacity=8)
    for t in range(8):
        y, _ = layer.run(layer.x[:, t : t + 1], cache)
        assert np.abs(y - layer.expected[:, t : t + 1]).max() <= BOUND
        cache.advance((1, 1, 1))


def test_an_adapter_of_the_latents_projection_is_not_left_out(numpy_backend):
    layer = Layer(numpy_backend, NAMES[0])
    rng = np.random.default_rng(8)
    rows, rank = layer.params[f"{NAME}.kv_b_proj.weight"].shape
    a, b = rng.standard_normal((2, rank)), rng.standard_normal((rows, 2))
    adapted = Layer(numpy_backend, NAMES[0])
    adapted.params[f"{NAME}.kv_b_proj.lora_A.weight"] = a
    adapted.params[f"{NAME}.kv_b_proj.lora_B.weight"] = b
    layer.params[f"{NAME}.kv_b_proj.weight"] = layer.params[f"{NAME}.kv_b_proj.weight"] + b @ a
    found = []
    for each in (layer, adapted):
        cache = KVCache.allocate(each.rt, each.config, batch=3, capacity=8)
        each.run(each.x[:, :5], cache)
        cache.advance((5, 5, 5))
        found.append(each.run(each.x[:, 5:6], cache)[0])
    assert np.abs(found[0] - found[1]).max() <= 1e-11  # the adapter's part is summed by itself


@pytest.mark.parametrize(
    ("T", "S", "cheaper"), [(1, 512, True), (64, 4096, True), (512, 4096, False), (512, 512, False)]
)
def test_few_queries_are_absorbed_by_a_layer_of_deepseek_v3(T, S, cheaper):
    spec = tiny_config(TINY_MODELS[NAMES[0]]).blocks[0].mixer
    rope = replace(spec.rope, dim=64)
    spec = replace(spec, num_heads=128, kv_rank=512, nope_dim=128, value_dim=128, rope=rope)
    assert is_absorbing_cheaper(spec, T, S) == cheaper

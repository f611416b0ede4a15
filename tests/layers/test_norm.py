"""Norms whose weights are added to 1, or are not there."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from tests.tiny import draw_ids, make_config, make_params
from xplm.gradients import Gradients
from xplm.layers.norm import norm_layer_bwd, norm_layer_fwd, norm_specs
from xplm.models.decoder import EMBEDDING, embed_fwd, make_context
from xplm.runtime import make_runtime
from xplm.specs import LayerNormSpec, RMSNormSpec

BF16 = ml_dtypes.bfloat16
EPS = 1e-6


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(BF16)


def wide(array):
    return array.astype(np.float64)


@pytest.mark.parametrize("kernels", ["fused", "portable"])
def test_an_rms_norm_with_an_offset_is_rounded_once(numpy_backend, kernels):
    """Neither the row nor 1 + w is rounded to bfloat16, which would change some of these 1,024 numbers."""
    x, w = draw(1, 64, 16), draw(2, 16)
    n = wide(x) / np.sqrt((wide(x) ** 2).mean(-1, keepdims=True) + EPS)
    expected = (n * (1.0 + wide(w))).astype(BF16)
    assert np.any(expected != (wide(n.astype(BF16)) * (1.0 + wide(w))).astype(BF16))
    assert np.any(expected != (n * wide((1.0 + wide(w)).astype(BF16))).astype(BF16))

    rt, params = make_runtime(numpy_backend, "bf16", kernels), {"norm.weight": w}
    spec = RMSNormSpec(EPS, offset=1.0)
    y, saved = norm_layer_fwd(rt, spec, params, "norm", x)
    np.testing.assert_array_equal(y, expected)

    grads = Gradients()
    dx = norm_layer_bwd(rt, spec, "norm", draw(3, 64, 16), saved, grads)
    assert (dx.dtype, dx.shape) == (BF16, x.shape)
    assert grads.found["norm.weight"].dtype == np.float32


def test_parameters_of_a_norm():
    def of(spec):
        return {p.name: p.init for p in norm_specs(spec, "norm", 4)}

    assert of(RMSNormSpec(EPS)) == {"norm.weight": "ones"}
    assert of(RMSNormSpec(EPS, offset=1.0)) == {"norm.weight": "zeros"}
    assert of(LayerNormSpec(EPS)) == {"norm.weight": "ones", "norm.bias": "zeros"}
    assert of(LayerNormSpec(EPS, offset=1.0, has_bias=False)) == {"norm.weight": "zeros"}
    assert of(LayerNormSpec(EPS, has_weight=False)) == {"norm.bias": "zeros"}
    with pytest.raises(AssertionError, match="offset"):
        LayerNormSpec(EPS, offset=1.0, has_weight=False)


def test_the_embeddings_factor_is_rounded_as_the_embeddings_are(numpy_backend):
    """The root of 640 is 25.298; in bfloat16 25.25."""
    rt, config = make_runtime(numpy_backend, "bf16"), make_config()
    config = replace(config, embedding_scale=640**0.5)
    params, ids = make_params(rt, config), draw_ids(1, 2, 5)
    x, _ = embed_fwd(rt, config, params, ids, make_context(rt, config, 5))
    np.testing.assert_array_equal(x, (wide(params[EMBEDDING])[ids] * 25.25).astype(BF16))

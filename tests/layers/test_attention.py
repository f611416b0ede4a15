"""What attention's layer does itself: norms of q and k over some of their entries, and bounds."""

from dataclasses import replace

import numpy as np
import pytest

from tests import naive
from tests.numerics.clipped import NAME, check_clipped, clipped_layer, entries_of
from tests.tiny import change_mixers, draw_ids, make_config, make_params
from xplm.cache import KVCache
from xplm.layers.attention import attention_layer_fwd
from xplm.layers.step import Steps
from xplm.models.decoder import forward, make_context
from xplm.numerics.gradient_check import OP_LIMIT
from xplm.runtime import make_runtime
from xplm.specs import RMSNormSpec


def test_the_gradient_of_clipped_entries():
    for error in check_clipped():
        assert error.error <= OP_LIMIT, error


def test_entries_are_clipped_after_their_norm():
    rt, spec, params, x, context = clipped_layer()
    free = entries_of(rt, replace(spec, clip=None), params, x, context)
    found = entries_of(rt, spec, params, x, context)
    assert 0 < np.sum(free > spec.clip) < len(free) / 4
    np.testing.assert_array_equal(found, np.minimum(free, spec.clip))
    y, _ = attention_layer_fwd(rt, replace(spec, clip=1e3), params, NAME, x, context)
    expected, _ = attention_layer_fwd(rt, replace(spec, clip=None), params, NAME, x, context)
    np.testing.assert_array_equal(y, expected)


def normed_heads(rows, weight, over, D, eps):
    """q or k (B, T, N D) after its norm, (B, N, T, D)."""
    if over == "all heads":
        rows = naive.rms_norm(rows, weight, eps)
    heads = rows.reshape(*rows.shape[:2], -1, D)
    if over != "all heads":
        heads = naive.rms_norm(heads, weight, eps)
    return heads.transpose(0, 2, 1, 3)


@pytest.mark.parametrize("over", ["head", "each head", "all heads"])
def test_norms_of_q_and_k(numpy_backend, over):
    rt = make_runtime(numpy_backend, "fp64")
    mixer = {"qk_norm": RMSNormSpec(0.1), "qk_norm_over": over, "cap": 1.5, "has_sinks": True}
    config = change_mixers(make_config(num_key_value_heads=2), rope=None, **mixer)
    params, spec = make_params(rt, config), config.blocks[0].mixer
    x = np.random.default_rng(5).standard_normal((2, 5, config.hidden_size))
    y, _ = attention_layer_fwd(rt, spec, params, NAME, x, make_context(rt, config, 5))

    p = {part: params[f"{NAME}.{part}.weight"] for part in ("q_proj", "k_proj", "v_proj", "o_proj")}
    q, k = (
        normed_heads(
            naive.linear(x, p[f"{part}_proj"]), params[f"{NAME}.{part}_norm.weight"], over, 4, 0.1
        )
        for part in "qk"
    )
    v = naive.linear(x, p["v_proj"]).reshape(2, 5, -1, 4).transpose(0, 2, 1, 3)
    options = {"start": 0, "scale": spec.scale, "cap": 1.5}
    heads, _ = naive.attention(q, k, v, None, params[f"{NAME}.sinks"], **options)
    expected = naive.linear(heads.transpose(0, 2, 1, 3).reshape(2, 5, -1), p["o_proj"])
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize("kernels", ["fused", "portable"])
@pytest.mark.parametrize(
    "changes",
    [
        {"cap": 0.5, "window": 3},
        {"has_sinks": True, "cap": 2.0},
        {"qk_norm": RMSNormSpec(1e-5), "has_sinks": True, "window": 2},
        {"qk_norm": RMSNormSpec(1e-5), "qk_norm_over": "all heads", "clip": 1.0},
        {"qk_norm": RMSNormSpec(1e-5), "qk_norm_over": "each head", "has_sinks": True},
    ],
    ids=str,
)
def test_token_by_token_as_the_whole(numpy_backend, kernels, changes):
    """The prompt in two passes, then single tokens, by steps where the blocks take them."""
    rt = make_runtime(numpy_backend, "fp32", kernels)
    config = change_mixers(make_config(), **changes)
    params, ids = make_params(rt, config), draw_ids(31, 2, 12)
    whole = forward(rt, config, params, ids)
    cache = KVCache.allocate(rt, config, batch=2, capacity=12)
    steps = Steps(rt, config, params)
    found, at = [], 0
    for n in (6, 2, 1, 1, 1, 1):
        some = np.ascontiguousarray(ids[:, at : at + n])
        found.append(forward(rt, config, params, some, cache, steps=steps))
        at += n
    # Logits of order 1 to 10 after two layers of sums of at most 24 terms.
    np.testing.assert_allclose(np.concatenate(found, axis=1), whole, rtol=0, atol=2e-4)

"""A step against the blocks that it stands for."""

from dataclasses import replace

import numpy as np
import pytest

from tests.helpers import to_numpy
from tests.tiny import (
    BASE,
    VARIANTS,
    change_mixers,
    draw_ids,
    make_config,
    make_parallel,
    make_params,
    make_ropes_by_layer,
)
from xplm.cache import KVCache
from xplm.kernels import PORTABLE
from xplm.layers.block import block_fwd
from xplm.layers.step import Steps
from xplm.models.decoder import embed_fwd, forward, make_context
from xplm.numerics.tiny_models import tiny_config
from xplm.runtime import make_runtime
from xplm.specs import LayerNormSpec, RMSNormSpec

ADDED_TO_1 = RMSNormSpec(1e-5, offset=1.0)
PLAIN = LayerNormSpec(1e-5, has_weight=False, has_bias=False)
POLICIES = ["fp32", "bf16", "fp16", "bf16,cache=fp32", "fp32,param=bf16", "fp8", "bf16,matmul=fp8"]


def start(backend, policy, *, kernels="portable", counts=(3, 3), config=None, **changes):
    """A model that has read some of three tokens of two rows: what its next blocks need, given anew each time."""
    rt = make_runtime(backend, policy, kernels)
    config = config or make_config(**changes)
    params = make_params(rt, config)
    cache = KVCache.allocate(rt, config, batch=2, capacity=4)
    ids = draw_ids(30, 2, 4)
    forward(rt, config, params, backend_ids(rt, ids[:, :3]), cache, counts=counts)

    def context():
        return make_context(rt, config, 1, cache.fork())

    x, _ = embed_fwd(rt, config, params, backend_ids(rt, ids[:, 3:]), context())
    return rt, config, params, x, context


def make_capped():
    return change_mixers(make_config(), cap=0.7, has_sinks=True)


def backend_ids(rt, ids):
    return rt.backend.from_host(np.ascontiguousarray(ids))


def block_by_block(rt, config, params, x, context):
    for layer, block in enumerate(config.blocks):
        x, _ = block_fwd(rt, block, params, layer, x, context)
    return to_numpy(rt.backend, x)


def assert_is_its_blocks(rt, config, params, x, context):
    """A step gives and writes what its blocks do, to the last bit."""
    step, block = context(), context()
    steps = Steps(rt, config, params)
    assert steps.take(step)
    y = steps(x, step)
    expected = block_by_block(rt, config, params, x, block)
    np.testing.assert_array_equal(to_numpy(rt.backend, y), expected)
    for layer in range(config.num_hidden_layers):
        pairs = zip(*[c.cache.of_layer(layer)[:2] for c in (step, block)], strict=True)
        for a, b in pairs:
            np.testing.assert_array_equal(to_numpy(rt.backend, a), to_numpy(rt.backend, b))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("counts", [(3, 3), (1, 3)], ids=str)
@pytest.mark.parametrize(
    "name",
    [
        *("gqa", "head_dim", "attention_bias", "mlp_bias", "mistral", "yarn", "qwen3", "parallel"),
        *("ropes_by_layer", "cap and sinks"),
    ],
)
def test_a_step_is_its_blocks_to_the_last_bit(numpy_backend, policy, name, counts):
    config = find_config(name)
    assert_is_its_blocks(*start(numpy_backend, policy, counts=counts, config=config))


@pytest.mark.parametrize("policy", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "name",
    [
        *("gelu", "granite", "gemma", "gemma2", "gemma3_text", "olmo2", "exaone4", "glm4"),
        *("gpt2", "starcoder2", "phi_qk_norm", "gpt_neox", "stablelm", "falcon", "nemotron"),
        *("cohere", "cohere2", "mixtral", "olmoe", "glm4_moe", "gpt_oss"),
    ],
)
def test_a_step_of_each_kind_of_block_is_its_blocks(numpy_backend, policy, name):
    """Norms of every kind and place, activations, parallel branches, experts."""
    config = find_config(name)
    assert_is_its_blocks(*start(numpy_backend, policy, counts=(1, 3), config=config))


@pytest.mark.nightly_on("jax")
def test_a_step_is_its_blocks_on_every_backend_and_in_rows_of_different_lengths(backend):
    rt, config, params, x, context = start(backend, "fp32", counts=(3, 1))
    y = Steps(rt, config, params)(x, context())
    expected = block_by_block(rt, config, params, x, context())
    np.testing.assert_array_equal(to_numpy(backend, y), expected)


@pytest.mark.nightly_on("jax")
def test_a_step_of_parallel_blocks_is_its_blocks_on_every_backend(backend):
    rt, config, params, x, context = start(backend, "fp32", counts=(1, 3), config=make_parallel())
    y = Steps(rt, config, params)(x, context())
    expected = block_by_block(rt, config, params, x, context())
    np.testing.assert_array_equal(to_numpy(backend, y), expected)


@pytest.mark.parametrize("kernels", ["fused", "portable"])
def test_a_parameter_that_is_replaced_counts_from_the_next_step(numpy_backend, kernels):
    rt, config, params, x, context = start(numpy_backend, "fp32", kernels=kernels)
    steps = Steps(rt, config, params)
    before = steps(x, context())
    name = "model.layers.1.mlp.up_proj.weight"
    whole, params[name] = params[name], 2 * params[name]
    doubled = steps(x, context())
    assert np.any(doubled != before)
    np.testing.assert_array_equal(doubled, Steps(rt, config, params)(x, context()))
    params[name] = whole
    np.testing.assert_array_equal(before, steps(x, context()))
    params["model.layers.1.mlp.up_proj.lora_A.weight"] = params.pop("model.norm.weight")
    assert not steps.take(context())


@pytest.mark.parametrize("kernels", ["fused", "portable"])
def test_a_full_cache_is_not_written_to(numpy_backend, kernels):
    rt, config, params, x, context = start(numpy_backend, "fp32", kernels=kernels)
    full = context()
    full.cache.advance((0, 1))
    with pytest.raises(AssertionError, match="as large as its capacity"):
        Steps(rt, config, params)(x, full._replace(rows=full.cache.rows()))


def test_who_takes_steps(numpy_backend):
    rt, config, params, _, context = start(numpy_backend, "fp32")
    assert Steps(rt, config, params).take(context())
    two = make_context(rt, config, 2, context().cache)
    assert not Steps(rt, config, params).take(two)
    assert not Steps(rt, config, params).take(make_context(rt, config, 1))
    adapted = params | {
        "model.layers.0.self_attn.q_proj.lora_A.weight": params["model.norm.weight"]
    }
    assert not Steps(rt, config, adapted).take(context())
    assert not Steps(replace(rt, kernels=PORTABLE), config, params).take(context())
    for policy in (
        "fp64",
        "bf16,norm=bf16",
        "bf16,rope=bf16",
        "bf16,softmax=bf16",
        "fp32,norm=fp8",
    ):
        other = make_runtime(numpy_backend, policy)
        assert not Steps(other, config, params).take(context())
    latent = tiny_config({"model_type": "deepseek_v2"})
    assert not Steps(rt, latent, params).take(context())


@pytest.mark.parametrize(
    "name",
    [
        *VARIANTS,
        *("parallel", "ropes_by_layer", "gpt2", "starcoder2", "gemma3_text", "olmo2"),
    ],
)
@pytest.mark.parametrize("kernels", ["fused", "portable"])
def test_blocks_that_are_bound(numpy_backend, kernels, name):
    config = find_config(name)
    rt, config, params, _, context = start(numpy_backend, "fp32", kernels=kernels, config=config)
    assert Steps(rt, config, params).take(context())


def test_a_step_takes_the_eps_of_its_blocks(numpy_backend):
    config = replace(make_config(), norm=RMSNormSpec(0.5))  # of the last norm, another
    rt, config, params, x, context = start(numpy_backend, "fp32", config=config)
    y = Steps(rt, config, params)(x, context())
    np.testing.assert_array_equal(
        to_numpy(rt.backend, y), block_by_block(rt, config, params, x, context())
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"qk_norm": RMSNormSpec(0.1)},
        {"qk_norm": LayerNormSpec(1e-5)},
        {"scale": 0.3},
        {"cap": 0.7},
        {"has_sinks": True},
        {"clip": 1.0},
        {"qk_norm": RMSNormSpec(1e-5), "qk_norm_over": "all heads"},
        {"qk_norm": RMSNormSpec(1e-5), "qk_norm_over": "each head"},
    ],
    ids=str,
)
def test_blocks_that_are_not_bound(numpy_backend, changes):
    """A norm of heads that is not the block's, and what is another in one of the blocks."""
    config = make_config()
    first = change_mixers(config, **changes).blocks[0]
    config = replace(config, blocks=(first, *config.blocks[1:]))
    rt, config, params, _, context = start(numpy_backend, "fp32", config=config)
    assert not Steps(rt, config, params).take(context())


def test_blocks_of_which_none_is_rotated_are_not_bound(numpy_backend):
    config = change_mixers(make_config(), rope=None)
    rt, config, params, _, context = start(numpy_backend, "fp32", config=config)
    assert not Steps(rt, config, params).take(context())


@pytest.mark.parametrize("policy", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "changes",
    [
        {"norm": ADDED_TO_1, "mlp_norm": ADDED_TO_1},
        {"norm": None, "mlp_norm": None, "mixer_output_norm": RMSNormSpec(1e-5)},
        {"mixer_output_norm": RMSNormSpec(1e-5)},
        {"mlp_output_norm": RMSNormSpec(1e-5)},
        {"mlp_norm": None},
        {"is_parallel": True},
        {"branch_scale": 0.5},
        dict.fromkeys(("norm", "mlp_norm", "mixer_output_norm", "mlp_output_norm"), PLAIN),
    ],
    ids=str,
)
def test_blocks_with_other_norms_or_a_scale(numpy_backend, policy, changes):
    config = make_config()
    config = replace(config, blocks=tuple(replace(block, **changes) for block in config.blocks))
    assert_is_its_blocks(*start(numpy_backend, policy, config=config))


def find_config(name):
    made = {
        "parallel": make_parallel,
        "ropes_by_layer": make_ropes_by_layer,
        "cap and sinks": make_capped,
    }
    if name in made:
        return made[name]()
    if name in VARIANTS:
        return make_config(**VARIANTS[name])
    sizes = {"vocab_size": BASE["vocab_size"], "hidden_size": 32}
    return tiny_config({"model_type": name} | sizes)

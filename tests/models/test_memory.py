"""What a block saves, measured on a few positions, counted by hand, and in the arrays that it really saved."""

from dataclasses import replace

import numpy as np
import pytest

from tests.tiny import draw_ids, make_config, make_params
from xplm.backend import load_backend
from xplm.layers.block import block_fwd
from xplm.models.decoder import embed_fwd, make_context, param_specs
from xplm.models.memory import head_scratch, measure_blocks
from xplm.numerics.tiny_models import TINY_MODELS, tiny_config
from xplm.params import init_params
from xplm.precision import Policy, cast
from xplm.runtime import make_runtime
from xplm.train.dropout import make_drop
from xplm.train.lora import adapter_specs

B, T = 2, 7


def numpy_runtime(policy="fp32", kernels="fused"):
    return make_runtime(load_backend("numpy"), policy, kernels)


def owned(value, seen):
    """Bytes of the memory behind every array in a saved value that grows with the positions, by its address."""
    if isinstance(value, np.ndarray) and value.ndim > 1:  # not 1 + a norm's weight
        while isinstance(value.base, np.ndarray):
            value = value.base
        seen[value.__array_interface__["data"][0]] = value.nbytes
    elif isinstance(value, tuple):
        for item in value:
            owned(item, seen)
    return seen


def saved_bytes(rt, config, rank=0, rate=0.0):
    """Bytes that the second block saves and that neither parameters nor tables of positions are."""
    params = make_params(rt, config)
    if rank:
        params |= init_params(rt, adapter_specs(param_specs(config), rank), 0)
    params = {name: cast(array, rt.dtype.compute) for name, array in params.items()}
    ids = draw_ids(0, B, T) % config.vocab_size
    context = make_context(rt, config, T)
    x, _ = embed_fwd(rt, config, params, ids, context)
    drop = make_drop(rt, rate, seed=0, step=0, micro=0)
    x, _ = block_fwd(rt, config.blocks[0], params, 0, x, context, drop)
    _, saved = block_fwd(rt, config.blocks[1], params, 1, x, context, drop)

    arrays = owned(tuple(saved), {})
    tables = [table for rope in context.ropes.values() for table in rope]
    for known in (*params.values(), *tables):
        for address in owned(known, {}):
            arrays.pop(address, None)
    return sum(arrays.values())


def measured(rt, config, batch, tokens, **options):
    """What the last block takes."""
    return measure_blocks(rt, config, batch, tokens, **options)[config.blocks[-1]]


@pytest.mark.parametrize("kernels", ["fused", "portable"])
@pytest.mark.parametrize("policy", ["fp32", "bf16", "bf16,norm=bf16", "fp64"])
@pytest.mark.parametrize("name", sorted(TINY_MODELS))
def test_a_block_saves_what_is_measured(name, policy, kernels):
    rt, config = numpy_runtime(policy, kernels), tiny_config(TINY_MODELS[name])
    assert measured(rt, config, B, T).saved == saved_bytes(rt, config)


@pytest.mark.parametrize(("rank", "rate"), [(2, 0.0), (0, 0.5), (2, 0.5)])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_adapters_and_dropout_save_what_is_measured(name, rank, rate):
    rt, config = numpy_runtime(), tiny_config(TINY_MODELS[name])
    adapters = adapter_specs(param_specs(config), rank) if rank else {}
    found = measured(rt, config, B, T, adapters=adapters, dropout=rate)
    assert found.saved == saved_bytes(rt, config, rank, rate)


def test_a_block_counted_by_hand():
    config = make_config(hidden_size=16, intermediate_size=24, num_attention_heads=4, head_dim=4)
    saved = {
        "attention_norm.x": 10 * 16 * 2,
        "attention_norm.statistics": 10 * 4,
        "attention.x": 10 * 16 * 2,
        "attention.q": 10 * 4 * 4 * 2,
        "attention.k": 10 * 2 * 4 * 2,  # 2 key/value heads
        "attention.v": 10 * 2 * 4 * 2,
        "attention.y": 10 * 4 * 4 * 2,
        "attention.lse": 10 * 4 * 4,
        "mlp_norm.x": 10 * 16 * 2,
        "mlp_norm.statistics": 10 * 4,
        "mlp.x": 10 * 16 * 2,
        "mlp.gate": 10 * 24 * 2,
        "mlp.up": 10 * 24 * 2,
        "mlp.hidden": 10 * 24 * 2,
    }
    assert measured(numpy_runtime("bf16"), config, 1, 10).saved == sum(saved.values())


def test_scratch_counted_by_hand():
    # C 16, F 24, queries 16 wide, keys 8; the MLP's: dx, 3 of F, 2 dx and their sum
    rt, n, C, F = numpy_runtime(), 100, 16, 24
    config = make_config(hidden_size=C, intermediate_size=F, num_attention_heads=4, head_dim=4)
    mlp, attention = 4 * C + 3 * F, 6 * C + 2 * 16 + 2 * 8
    counted = measured(rt, config, 2, 50).scratch
    assert counted == 4 * n * max(mlp, attention)
    assert measured(rt, config, 2, 50, dropout=0.5).scratch == counted + 4 * n * C
    # forward, x and its norm and rstd, q, y and lse, with keys and values of both rows in blocks
    slots = 1000
    passing = 4 * n * (2 * C + 1 + 16 + 16 + 4)
    cached = measured(rt, config, 2, 50, capacity=slots // 2)
    assert cached.forward == passing + 4 * 2 * slots * 8
    # in bfloat16 they are widened before, with the queries and y
    widened = 4 * (2 * n * 16 + 2 * slots * 8)
    passing = 2 * n * (2 * C + 16 + 16) + 4 * n * (1 + 4)
    cached = measured(numpy_runtime("bf16"), config, 2, 50, capacity=slots // 2)
    assert cached.forward == passing + 4 * 2 * slots * 8 + widened


@pytest.mark.parametrize("capacity", [None, 60])
def test_blocks_are_measured_once_each_kind(capacity):
    config = tiny_config(TINY_MODELS["llama"])
    first = config.blocks[0]
    wide = replace(first, mlp=replace(first.mlp, intermediate_size=2 * first.mlp.intermediate_size))
    config = replace(config, blocks=(first, wide, first, wide))
    found = measure_blocks(numpy_runtime(), config, B, T, capacity=capacity)
    assert set(found) == {first, wide}
    more = 4 * B * T * 3 * first.mlp.intermediate_size
    assert found[wide].saved - found[first].saved == more


@pytest.mark.parametrize(
    ("n", "chunk", "tables"),
    [(100, 100, 1), (300, 8_388_608 // 50_000, 2)],
)
def test_logits_are_those_of_a_chunk_of_rows(n, chunk, tables):
    config = make_config(vocab_size=50_000)
    scratch = head_scratch(numpy_runtime(), config, n)
    assert scratch.chunk == scratch.logits == chunk * 50_000 * 4
    assert scratch.gradients == tables * 50_000 * config.hidden_size * 4
    capped = head_scratch(numpy_runtime(), replace(config, logit_cap=30.0), n)
    assert capped.logits == 2 * scratch.logits  # the slopes of tanh beside them
    # which are float32, whatever the policy computes in; x and dx are widened for them
    narrow = head_scratch(numpy_runtime("bf16"), config, n)
    assert narrow.chunk == scratch.chunk
    assert narrow.logits == scratch.logits + 2 * n * config.hidden_size * 4
    assert narrow.gradients == scratch.gradients
    for policy, kernels in (("bf16", "portable"), ("bf16,loss=bf16", "fused")):
        portable = head_scratch(numpy_runtime(policy, kernels), config, n)
        assert portable.logits >= 2 * portable.chunk


def test_an_emulated_format_takes_what_float32_takes():
    config = make_config()
    assert Policy.parse("fp8").compute == "float8_e4m3fn"
    counted = [measured(numpy_runtime(p, "portable"), config, 1, 10).saved for p in ("fp8", "fp32")]
    assert counted[0] == counted[1]

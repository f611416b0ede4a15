"""Three failures that low precision is known for: one word of a policy makes each, and taking it back mends it."""

import numpy as np
import pytest

from tests.generate.tiny import tiny_model
from xplm.generate.engine import Engine
from xplm.numerics.policies.sweep import sweep

LENGTH = 1024


@pytest.fixture(scope="module")
def lm():
    return tiny_model(max_position_embeddings=LENGTH)


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(3).integers(2, 258, LENGTH).tolist()


def run(lm, ids, params, *policies):
    engine = Engine(lm.rt, lm.config, lm.params | params)
    *_, last = sweep(engine, policies, ids, window=LENGTH, kernels="fused")
    return last.tallies


def test_rope_tables_in_bfloat16_fail_at_long_positions(lm, ids):
    tallies = run(lm, ids, {}, "bf16", "bf16,rope=bf16")
    mended, made = (dict(tally.kl_by_position) for tally in tallies.values())
    # Positions below 256 are whole in 8 bits, and angles are off by 2^-9 of them; beyond, positions move by halves
    # of their spacing: by up to 2 from 512 on, and 2 radians are no rounding any more.
    assert made[512] > 30 * made[0]
    assert made[512] > 30 * mended[512]
    assert mended[512] < 3 * mended[0]


def test_norms_in_float16_overflow(lm, ids):
    # A stream of 300 is well within float16's 65504; the square of one number of it is not.
    loud = {name: lm.params[name] * 300 for name in ("model.embed_tokens.weight",)}
    tallies = run(lm, ids[:64], loud, "fp16", "fp16,norm=fp16")
    mended, made = tallies.values()
    assert mended.mean_kl < 1e-3 < 1 < made.mean_kl
    assert mended.agreement > 0.95 > 0.2 > made.agreement
    assert made.n_broken == 0  # infinity under a quotient is 0: nothing tells of it but the loss


def test_softmax_in_bfloat16_stalls_over_long_rows(lm, ids):
    # Queries of 0 attend to all keys alike: n ones are to be added up, and a bfloat16 sum of ones stays at 256.
    blind = {
        f"model.layers.{i}.self_attn.q_proj.weight": np.zeros((32, 32), np.float32)
        for i in range(lm.config.num_hidden_layers)
    }
    tallies = run(lm, ids, blind, "bf16", "bf16,softmax=bf16")
    mended, made = tallies.values()
    by_position = dict(made.kl_by_position)
    assert by_position[512] > 30 * by_position[0]
    assert by_position[512] > 30 * dict(mended.kl_by_position)[512]
    assert made.mean_drift[1] > 5 * mended.mean_drift[1]

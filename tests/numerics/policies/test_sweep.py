"""A sweep on a tiny model: its figures are those of other ways of measuring."""

import numpy as np
import pytest

from tests.generate.tiny import tiny_model
from xplm.backend import load_backend
from xplm.errors import RequestError
from xplm.generate.engine import Engine
from xplm.generate.perplexity import compute_perplexity
from xplm.layers.block import block_fwd
from xplm.models.decoder import embed_fwd, forward, make_context
from xplm.numerics.policies.residuals import tapped
from xplm.numerics.policies.sweep import peak_bytes, row, sweep

IDS = np.random.default_rng(5).integers(2, 258, 150).tolist()
WINDOW, CHUNK = 64, 24  # three windows, the last of 22 ids; three chunks in a whole one


@pytest.fixture(scope="module")
def lm():
    return tiny_model()


@pytest.fixture(scope="module")
def engine(lm):
    return Engine(lm.rt, lm.config, lm.params, chunk_tokens=CHUNK)


def run(engine, *policies, ids=IDS, window=WINDOW):
    *_, last = sweep(engine, policies, ids, window=window, kernels="fused")
    return last.tallies


@pytest.mark.parametrize("location", ["numpy", "strict"])
@pytest.mark.parametrize("changes", [{}, {"model_type": "mistral", "sliding_window": 5}])
def test_the_stream_is_what_blocks_hand_on(location, changes):
    lm = tiny_model(backend=load_backend(location), **changes)
    rt, stream = tapped(lm.rt, lm.config, lm.params)
    ids = lm.rt.backend.from_host(np.asarray([IDS[:9]]))
    logits = forward(rt, lm.config, lm.params, ids)
    np.testing.assert_array_equal(
        lm.rt.backend.to_host(logits),
        lm.rt.backend.to_host(forward(lm.rt, lm.config, lm.params, ids)),
    )
    context = make_context(lm.rt, lm.config, 9)
    x, _ = embed_fwd(lm.rt, lm.config, lm.params, ids, context)
    for depth in range(lm.config.num_hidden_layers + 1):
        np.testing.assert_array_equal(
            lm.rt.backend.to_host(stream[depth]), lm.rt.backend.to_host(x)
        )
        if depth < lm.config.num_hidden_layers:
            x, _ = block_fwd(lm.rt, lm.config.blocks[depth], lm.params, depth, x, context)


def test_a_chunk_of_one_token_has_its_stream_too(lm):
    engine = Engine(lm.rt, lm.config, lm.params, chunk_tokens=3)
    tallies = run(engine, "bf16", ids=IDS[:7], window=7)
    assert tallies["bf16"].n_tokens == 7
    assert len(tallies["bf16"].mean_drift) == lm.config.num_hidden_layers + 1


@pytest.mark.parametrize("policy", ["fp32", "bf16", "fp16"])
def test_perplexity_is_that_of_xplm_eval(lm, policy):
    tally = run(lm.engine, policy)[policy]
    expected = compute_perplexity(tiny_model(policy=policy).engine, IDS, WINDOW)
    assert tally.n_scored == expected.tokens
    # The same arithmetic; losses alone are added up in another order, in float64.
    assert tally.perplexity == pytest.approx(expected.perplexity, rel=1e-12)


def test_chunks_change_nothing_but_the_order_of_sums(lm, engine):
    whole, cut = (run(e, "fp32")["fp32"] for e in (lm.engine, engine))
    # A few dozen roundings of logits up to about 50, in float32.
    assert cut.mean_loss == pytest.approx(whole.mean_loss, abs=64 * 50 * 2.0**-24)


def test_float32_is_no_distance_from_itself(engine):
    tally = run(engine, "bf16", "fp32")["fp32"]
    assert (tally.mean_kl, tally.max_error, tally.agreement) == (0.0, 0.0, 1.0)
    assert set(tally.mean_drift) == {0.0}


def test_more_bits_are_nearer(engine):
    tallies = run(engine, "bf16", "fp16", "fp32,matmul=e5m3", "fp64")
    kl = {name: tally.mean_kl for name, tally in tallies.items()}
    # Both log-sum-exps are those of float32 exponentials, good to about 2^-24 each.
    assert abs(kl["fp64"]) < 2 * 2.0**-24 < kl["fp16"] < kl["bf16"] < kl["fp32,matmul=e5m3"]
    assert tallies["fp16"].mean_drift[-1] < tallies["bf16"].mean_drift[-1]


def test_the_cache_of_a_policy_is_measured(engine):
    drift = {name: t.mean_drift for name, t in run(engine, "fp32", "fp32,cache=fp8").items()}
    assert drift["fp32,cache=fp8"][0] == 0.0  # the embedding has no cache
    assert drift["fp32,cache=fp8"][1] > 1e-3


def test_whenever_it_stops_all_have_read_the_same(engine):
    policies = ("bf16", "fp32", "bf16,norm=bf16")
    counts = []
    for progress in sweep(engine, policies, IDS, window=WINDOW, kernels="fused"):
        assert set(progress.tallies) in (set(), set(policies))
        seen = {tally.n_tokens for tally in progress.tallies.values()}
        assert len(seen) <= 1
        counts.append((progress.n_read, *seen))
    assert counts[-1] == (7 * 3, 150)
    assert counts[0] == (1,)


def test_texts_that_mean_the_same_policy_are_one(engine):
    assert list(run(engine, "bf16,rope=fp32", "bf16")) == ["bf16"]


def test_a_row_counts_bytes_in_the_policys_formats(lm, engine):
    tallies = run(engine, "bf16,cache=fp8")
    figures = row(engine, "bf16,cache=fp8", tallies["bf16,cache=fp8"], WINDOW)
    n_params = sum(array.size for array in lm.params.values())
    assert figures["param_bytes"] == 2 * n_params
    assert figures["cache_bytes"] == 2 * 2 * 2 * 8 * WINDOW  # two layers, keys and values, K D
    assert (figures["tokens"], figures["broken"]) == (150, 0)


def test_the_peak_is_above_what_is_held(engine):
    assert peak_bytes(engine, WINDOW) > 2**20


@pytest.mark.parametrize(
    ("policies", "options", "message"),
    [
        (("bf17",), {}, "bf17"),
        ((), {}, "got none"),
        (("bf16",), {"window": 1}, "at least 2 ids and at most the model's context of 256; got 1"),
        (("bf16",), {"window": 257}, "got 257"),
        (("bf16",), {"ids": [5]}, "at least 2 ids; got 1"),
        (("bf16",), {"ids": [5, 999]}, "got 999"),
    ],
)
def test_bad_input_is_refused(engine, policies, options, message):
    with pytest.raises(RequestError, match=message):
        run(engine, *policies, **options)


def test_the_reference_is_float32(lm):
    narrow = tiny_model(policy="bf16")
    with pytest.raises(RequestError, match="compares with fp32; got bf16"):
        run(narrow.engine, "bf16")

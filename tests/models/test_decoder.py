"""The decoder: against a naive float64 one, and against itself cut up in other ways."""

import numpy as np
import pytest

from tests import naive
from tests.helpers import assert_on
from tests.tiny import VARIANTS, draw_ids, make_config, make_params
from xplm.backend import load_backend
from xplm.cache import KVCache
from xplm.generate.engine import fill_up
from xplm.models.decoder import EMBEDDING, LM_HEAD, forward, param_specs
from xplm.numerics.tiny_models import TINY_MODELS, tiny_config
from xplm.rope_scaling import inverse_frequencies
from xplm.runtime import make_runtime

# Two layers of sums of at most 50 terms of order 1 to 10, in float64; and the same in float32.
BOUND = {"fp64": 1e-11, "fp32": 1e-4}


class Model:
    """A tiny model on a backend, its logits on the host."""

    def __init__(self, backend, policy="fp64", **changes):
        self.rt = make_runtime(backend, policy)
        self.config = make_config(**changes)
        self.params = make_params(self.rt, self.config)

    def __call__(self, ids, cache=None, **options):
        on_device = self.rt.backend.from_host(np.asarray(ids))
        logits = forward(self.rt, self.config, self.params, on_device, cache, **options)
        return self.rt.backend.to_host(logits)

    def cache(self, batch, capacity):
        return KVCache.allocate(self.rt, self.config, batch, capacity)

    def greedy(self, prompt, steps):
        cache, ids = self.cache(1, len(prompt) + steps), [*prompt]
        logits = self([prompt], cache, last_only=True)
        for _ in range(steps):
            ids.append(int(logits[0, -1].argmax()))
            logits = self([ids[-1:]], cache, last_only=True)
        return ids[len(prompt) :]


@pytest.mark.parametrize("name", list(VARIANTS))
def test_equals_the_naive_decoder(numpy_backend, name):
    model = Model(numpy_backend, **VARIANTS[name])
    ids = draw_ids(21, 2, 12)
    config = model.config
    inv_freq, scale = inverse_frequencies(*config.ropes, length=12)
    expected = naive.decoder(config, model.params, ids, inv_freq, scale)
    assert np.abs(model(ids) - expected).max() < BOUND["fp64"]


@pytest.mark.parametrize("name", ["norms around", "two norms of x"])
def test_norms_scales_and_caps_equal_the_naive_decoders(numpy_backend, name):
    rt = make_runtime(numpy_backend, "fp64")
    config = tiny_config(TINY_MODELS[name])
    params = make_params(rt, config)
    ids = draw_ids(21, 2, 5) % config.vocab_size
    inv_freq, scale = inverse_frequencies(*config.ropes, length=5)
    expected = naive.decoder(config, params, ids, inv_freq, scale)
    assert np.abs(forward(rt, config, params, ids) - expected).max() < BOUND["fp64"]


@pytest.mark.parametrize("name", [n for n in VARIANTS if n != "gqa"])
def test_every_flag_changes_the_outcome(numpy_backend, name):
    ids = draw_ids(21, 2, 12)
    changed, base = Model(numpy_backend, **VARIANTS[name]), Model(numpy_backend)
    assert np.abs(changed(ids) - base(ids)).max() > 1e-3


def test_table_of_parameters_by_hand():
    config = make_config(attention_bias=True, head_dim=6, num_hidden_layers=1)
    shapes = {name: spec.shape for name, spec in param_specs(config).items()}
    layer = "model.layers.0"
    assert shapes == {
        EMBEDDING: (50, 16),
        f"{layer}.input_layernorm.weight": (16,),
        f"{layer}.self_attn.q_proj.weight": (24, 16),
        f"{layer}.self_attn.q_proj.bias": (24,),
        f"{layer}.self_attn.k_proj.weight": (12, 16),
        f"{layer}.self_attn.k_proj.bias": (12,),
        f"{layer}.self_attn.v_proj.weight": (12, 16),
        f"{layer}.self_attn.v_proj.bias": (12,),
        f"{layer}.self_attn.o_proj.weight": (16, 24),
        f"{layer}.self_attn.o_proj.bias": (16,),
        f"{layer}.post_attention_layernorm.weight": (16,),
        f"{layer}.mlp.gate_proj.weight": (24, 16),
        f"{layer}.mlp.up_proj.weight": (24, 16),
        f"{layer}.mlp.down_proj.weight": (16, 24),
        "model.norm.weight": (16,),
        LM_HEAD: (50, 16),
    }
    assert LM_HEAD not in param_specs(make_config(tie_word_embeddings=True))
    qwen2 = param_specs(make_config(model_type="qwen2"))
    assert f"{layer}.self_attn.q_proj.bias" in qwen2
    assert f"{layer}.self_attn.o_proj.bias" not in qwen2


@pytest.mark.parametrize("policy", ["fp64", "fp32"])
@pytest.mark.parametrize(
    "name", ["gqa", "mistral", "qwen2_window", "yarn", "qwen3_window", "phi", "phi_qk_norm"]
)
@pytest.mark.parametrize("chunk", [1, 7])
def test_pieces_through_the_cache_equal_the_whole(numpy_backend, name, chunk, policy):
    model = Model(numpy_backend, policy, **VARIANTS[name])
    ids = draw_ids(22, 2, 23)
    whole = model(ids)
    cache = model.cache(2, 23)
    pieces = [model(ids[:, i : i + chunk], cache) for i in range(0, 23, chunk)]
    assert cache.length == 23
    joined = np.concatenate(pieces, axis=1)
    assert np.abs(joined - whole).max() < BOUND[policy]
    np.testing.assert_array_equal(joined.argmax(-1), whole.argmax(-1))


@pytest.mark.nightly_on("jax")  # it compiles every op for each of the shapes
@pytest.mark.parametrize("name", ["gqa", "mistral", "llama3", "qwen3"])
def test_rows_of_different_lengths_are_each_as_alone(backend, name):
    model = Model(backend, **VARIANTS[name])
    prompts = [draw_ids(23 + n, n) for n in (9, 4, 1)]
    step = draw_ids(24, 3, 1)

    cache = model.cache(3, 10)
    prefill = model(fill_up(prompts), cache, counts=(9, 4, 1))
    assert cache.lengths == (9, 4, 1)
    decode = model(step, cache)
    assert cache.lengths == (10, 5, 2)
    for row, prompt in enumerate(prompts):
        alone = model([[*prompt, *step[row]]])[0]
        assert np.abs(prefill[row, : len(prompt)] - alone[:-1]).max() < BOUND["fp64"]
        assert np.abs(decode[row] - alone[-1:]).max() < BOUND["fp64"]


@pytest.mark.parametrize("T", [2, 5])
@pytest.mark.parametrize("name", ["gqa", "mistral", "qwen2_window"])
def test_several_tokens_after_rows_of_different_lengths(numpy_backend, name, T):
    model = Model(numpy_backend, "fp32", **VARIANTS[name])
    prompts = [draw_ids(23 + n, n) for n in (7, 2, 5)]
    more = draw_ids(24, 3, T)
    cache = model.cache(3, 7 + T)
    model(fill_up(prompts), cache, counts=(7, 2, 5))
    found = model(more, cache)
    for row, prompt in enumerate(prompts):
        alone = model([[*prompt, *more[row]]])[0, -T:]
        assert np.abs(found[row] - alone).max() < BOUND["fp32"]


@pytest.mark.parametrize("T", [1, 2])
def test_learned_positions_are_counted_by_row(numpy_backend, T):
    rt = make_runtime(numpy_backend, "fp64")
    config = tiny_config(TINY_MODELS["gpt2"])
    params, ids = make_params(rt, config), draw_ids(35, 2, 6) % config.vocab_size
    cache = KVCache.allocate(rt, config, 2, 6)
    forward(rt, config, params, ids[:, :4], cache, counts=(4, 1))
    new = np.stack([ids[0, 4 : 4 + T], ids[1, 1 : 1 + T]])
    found = forward(rt, config, params, new, cache)
    whole = forward(rt, config, params, ids)
    assert np.abs(found[0] - whole[0, 4 : 4 + T]).max() < BOUND["fp64"]
    assert np.abs(found[1] - whole[1, 1 : 1 + T]).max() < BOUND["fp64"]


def test_the_last_logits_are_those_of_each_rows_last_token(numpy_backend):
    model = Model(numpy_backend)
    prompts = [draw_ids(36 + n, n) for n in (5, 1, 3)]
    ids, counts = fill_up(prompts), (5, 1, 3)
    every = model(ids, model.cache(3, 5), counts=counts)
    last = model(ids, model.cache(3, 5), counts=counts, last_only=True)
    assert last.shape == (3, 1, 50)
    expected = np.stack([every[row, n - 1 : n] for row, n in enumerate(counts)])
    assert np.abs(last - expected).max() < BOUND["fp64"]


@pytest.mark.parametrize("chunk", [1, 7])
@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_chunks_of_a_prompt_beyond_the_trained_length_equal_the_whole(numpy_backend, name, chunk):
    model = Model(numpy_backend, **VARIANTS[name])  # trained for 8 positions
    ids = draw_ids(26, 2, 15)
    cache = model.cache(2, 15)
    pieces = [model(ids[:, i : i + chunk], cache, ends=(15, 15)) for i in range(0, 15, chunk)]
    assert np.abs(np.concatenate(pieces, axis=1) - model(ids)).max() < BOUND["fp64"]


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_a_batch_beyond_the_trained_length_equals_each_alone(numpy_backend, name):
    model = Model(numpy_backend, **VARIANTS[name])
    counts = (15, 11, 4)
    prompts = [draw_ids(27 + n, n) for n in counts]
    batch = model(fill_up(prompts), model.cache(3, 15), counts=counts, ends=counts)
    for row, prompt in enumerate(prompts):
        alone = model([prompt])[0]
        assert np.abs(batch[row, : len(prompt)] - alone).max() < BOUND["fp64"]


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_chunks_of_a_batch_beyond_the_trained_length_equal_each_alone(numpy_backend, name):
    model = Model(numpy_backend, **VARIANTS[name])
    ends = (15, 11, 4)
    prompts = [draw_ids(27 + n, n) for n in ends]
    ids, cache = fill_up(prompts), model.cache(3, 15)
    parts = []
    for begin in range(0, 15, 5):
        counts = [min(max(n - begin, 0), 5) for n in ends]
        parts.append(model(ids[:, begin : begin + 5], cache, counts=counts, ends=ends))
    found = np.concatenate(parts, axis=1)
    assert cache.lengths == ends
    for row, prompt in enumerate(prompts):
        alone = model([prompt])[0]
        assert np.abs(found[row, : len(prompt)] - alone).max() < BOUND["fp64"]


@pytest.mark.parametrize("name", ["gqa", "mistral"])
def test_what_fills_up_a_row_does_not_matter(numpy_backend, name):
    model = Model(numpy_backend, **VARIANTS[name])
    ids, step = draw_ids(25, 2, 6), draw_ids(26, 2, 1)
    other = ids.copy()
    other[1, 2:] = (other[1, 2:] + 7) % 50
    results = []
    for filled in (ids, other):
        cache = model.cache(2, 8)
        first = model(filled, cache, counts=(6, 2))
        results.append((first[0], first[1, :2], model(step, cache), model(step, cache)))
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_rollback_then_resend_equals_never_having_sent_it(numpy_backend):
    model = Model(numpy_backend)
    ids, other = draw_ids(26, 1, 8), draw_ids(27, 1, 5)
    cache = model.cache(1, 13)
    model(ids, cache)
    model(other, cache)
    cache.rollback(8)
    np.testing.assert_array_equal(model(other, cache), model(other, cache_after(model, ids)))


def cache_after(model, ids):
    cache = model.cache(1, 13)
    model(ids, cache)
    return cache


def test_forks_and_selected_rows_go_on_apart(numpy_backend):
    model = Model(numpy_backend)
    ids = draw_ids(28, 2, 6)
    cache = model.cache(2, 8)
    model(ids, cache)
    fork = cache.fork()
    model(draw_ids(29, 2, 1), cache)
    swapped = fork.select([1, 0])
    step = draw_ids(30, 2, 1)
    np.testing.assert_array_equal(model(step, fork), model(step[::-1], swapped)[::-1])
    whole = model(np.concatenate([ids, step], axis=1))[:, -1:]
    assert np.abs(model(step, cache_of(model, ids)) - whole).max() < BOUND["fp64"]


def cache_of(model, ids):
    cache = model.cache(len(ids), ids.shape[1] + 1)
    model(ids, cache)
    return cache


@pytest.mark.parametrize("policy", ["fp64", "fp32"])
def test_rows_that_leave_change_nothing_for_those_that_stay(numpy_backend, policy):
    """Also one row twice, as beams take it, and rows that come to different lengths after."""
    model = Model(numpy_backend, policy)
    prompts = [draw_ids(37 + n, n) for n in (8, 1, 5)]
    steps = draw_ids(38, 3, 4)
    cache = model.cache(3, 12)
    model(fill_up(prompts), cache, counts=(8, 1, 5))
    model(steps[:, :1], cache)

    chosen, counts = [2, 1, 2], (1, 2, 2)
    cache = cache.select(chosen)
    assert cache.lengths == (6, 2, 6)
    found = model(steps[chosen, 1:3], cache, counts=counts)
    assert cache.lengths == (7, 4, 8)
    after = model(steps[chosen, np.add(counts, 1)][:, None], cache)
    for row, (source, n) in enumerate(zip(chosen, counts, strict=True)):
        alone = model([[*prompts[source], *steps[source]]])[0, -3:]
        assert np.abs(found[row, :n] - alone[:n]).max() < BOUND[policy]
        assert np.abs(after[row] - alone[n]).max() < BOUND[policy]


def test_last_only_is_the_last_row(numpy_backend):
    model = Model(numpy_backend)
    ids = draw_ids(31, 2, 6)
    last = model(ids, last_only=True)
    assert last.shape == (2, 1, 50)
    # A product of one row may be summed in another order than that of six.
    assert np.abs(last - model(ids)[:, -1:]).max() < BOUND["fp64"]


@pytest.mark.nightly_on("jax")
def test_one_token_is_a_prompt(backend):
    model = Model(backend)
    assert np.isfinite(model([[3]])).all()


def test_forward_writes_into_no_parameter_and_no_ids(numpy_backend):
    model = Model(numpy_backend)
    ids = draw_ids(32, 2, 6)
    for array in (*model.params.values(), ids):
        array.flags.writeable = False
    assert model(ids).shape == (2, 6, 50)


@pytest.mark.parametrize("name", ["gqa", "mistral", "qwen2", "qwen3", "phi"])
def test_second_address_space_generates_what_numpy_does(device1, name):
    """A full forward pass and 16 greedy tokens where any silent copy through the host raises."""
    numpy_model = Model(load_backend("numpy"), "fp32", **VARIANTS[name])
    model = Model(device1, "fp32", **VARIANTS[name])
    for array in model.params.values():
        assert_on(device1, array, dtype="float32", shape=tuple(array.shape))
    ids = draw_ids(33, 2, 20)
    assert np.abs(model(ids) - numpy_model(ids)).max() < BOUND["fp32"]

    prompt = draw_ids(34, 5).tolist()
    generated = model.greedy(prompt, 16)
    assert len(generated) == 16
    assert generated == numpy_model.greedy(prompt, 16)

"""The decoder: against a naive float64 one, and against itself cut up in other ways."""

import numpy as np
import pytest

from tests import naive
from tests.helpers import assert_on
from tests.tiny import VARIANTS, draw_ids, make_config, make_params
from xplm.backend import load_backend
from xplm.cache import KVCache
from xplm.models.decoder import EMBEDDING, LM_HEAD, forward, param_specs
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
@pytest.mark.parametrize("name", ["gqa", "mistral", "qwen2_window", "yarn"])
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
@pytest.mark.parametrize("name", ["gqa", "mistral", "llama3"])
def test_a_batch_of_unequal_prompts_equals_each_alone(backend, name):
    model = Model(backend, **VARIANTS[name])
    prompts = [draw_ids(23 + n, n) for n in (9, 4, 1)]
    first = np.array([9 - len(p) for p in prompts])
    padded = np.stack([np.pad(p, (9 - len(p), 0)) for p in prompts])
    step = draw_ids(24, 3, 1)

    cache = model.cache(3, 10)
    prefill = model(padded, cache, first=first)
    decode = model(step, cache, first=first)
    for row, prompt in enumerate(prompts):
        alone = model([[*prompt, *step[row]]])[0]
        assert np.abs(prefill[row, first[row] :] - alone[:-1]).max() < BOUND["fp64"]
        assert np.abs(decode[row] - alone[-1:]).max() < BOUND["fp64"]


@pytest.mark.parametrize("chunk", [1, 7])
def test_chunks_of_a_prompt_beyond_the_trained_length_equal_the_whole(numpy_backend, chunk):
    model = Model(numpy_backend, **VARIANTS["dynamic"])  # trained for 8 positions
    ids = draw_ids(26, 2, 15)
    cache = model.cache(2, 15)
    pieces = [model(ids[:, i : i + chunk], cache, end=15) for i in range(0, 15, chunk)]
    assert np.abs(np.concatenate(pieces, axis=1) - model(ids)).max() < BOUND["fp64"]


def test_a_batch_beyond_the_trained_length_equals_each_alone(numpy_backend):
    model = Model(numpy_backend, **VARIANTS["dynamic"])
    prompts = [draw_ids(27 + n, n) for n in (15, 11, 4)]
    first = np.array([15 - len(p) for p in prompts])
    padded = np.stack([np.pad(p, (15 - len(p), 0)) for p in prompts])
    batch = model(padded, model.cache(3, 15), first=first)
    for row, prompt in enumerate(prompts):
        assert np.abs(batch[row, first[row] :] - model([prompt])[0]).max() < BOUND["fp64"]


def test_padding_cannot_overflow_into_a_sequence(numpy_backend):
    model = Model(numpy_backend, "fp16")
    embedding = model.params[EMBEDDING].copy()
    embedding[0] = np.inf  # the id that pads
    model.params[EMBEDDING] = embedding
    ids = draw_ids(28, 1, 4) % 49 + 1
    alone = model(ids)
    padded = model(np.pad(ids, ((0, 0), (3, 0))), model.cache(1, 7), first=np.array([3]))
    np.testing.assert_array_equal(padded[:, 3:].argmax(-1), alone.argmax(-1))


def test_what_the_padding_holds_does_not_matter(numpy_backend):
    model = Model(numpy_backend)
    ids = draw_ids(25, 1, 6)
    other = ids.copy()
    other[:, :3] = (other[:, :3] + 7) % 50
    first = np.array([3])
    np.testing.assert_array_equal(model(ids, first=first)[:, 3:], model(other, first=first)[:, 3:])


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


@pytest.mark.parametrize("name", ["gqa", "mistral", "qwen2"])
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

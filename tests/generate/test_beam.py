"""Beam search against every sequence there is, and against transformers (see also test_story.py)."""

from itertools import product

import numpy as np
import pytest

from tests.generate.tiny import tiny_model
from xplm.generate.sampling import log_normaliser
from xplm.models.families.config_json import write_config


@pytest.fixture(scope="module")
def lm():
    return tiny_model()


def score(lm, prompt, ids):
    """The sum of the log-probabilities of ids after prompt."""
    logits = lm.logits(prompt + ids[:-1])[len(prompt) - 1 :]
    logprobs = logits - log_normaliser(logits)
    return float(np.sum(logprobs[np.arange(len(ids)), ids]))


def test_beams_as_wide_as_the_vocabulary_find_the_best_of_all_sequences():
    lm = tiny_model(vocab_size=8)
    prompt = [2, 3]
    sequences = [list(ids) for ids in product(range(8), repeat=3)]
    expected = max(sequences, key=lambda ids: score(lm, prompt, ids))
    out = lm.generate(prompt, num_beams=64, max_new_tokens=3, ignore_eos=True)
    assert out.token_ids == expected
    assert out.finish_reason == "length"


def test_logprobs_are_the_models_own(lm):
    prompt = lm.tokenizer.encode("Hello")
    out = lm.generate(prompt, num_beams=3, max_new_tokens=6, repetition_penalty=1.5)
    assert len(out.logprobs) == len(out.token_ids)
    # Rounding of a float32 forward pass, six times.
    np.testing.assert_allclose(sum(out.logprobs), score(lm, prompt, out.token_ids), atol=6e-4)


def test_a_wider_beam_finds_nothing_worse(lm):
    prompt = lm.tokenizer.encode("Hello")
    outs = [lm.generate(prompt, num_beams=n, max_new_tokens=8, ignore_eos=True) for n in (1, 4, 64)]
    totals = [sum(out.logprobs) for out in outs]
    assert totals[0] < totals[1] <= totals[2] + 1e-6


def test_a_stop_text_ends_a_beam(lm):
    free = lm.generate("Hello", num_beams=3, max_new_tokens=10, ignore_eos=True)
    stop = free.text[3:5]
    out = lm.generate("Hello", num_beams=3, max_new_tokens=10, ignore_eos=True, stop=stop)
    assert stop not in out.text
    assert out.finish_reason in ("stop", "length")


def test_a_stream_of_beams_is_one_piece(lm):
    stream = lm.stream("Hello", num_beams=2, max_new_tokens=5)
    assert list(stream) == [stream.result.text]


@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_transformers(length_penalty, seed):
    torch = pytest.importorskip("torch", reason="transformers runs on torch")
    transformers = pytest.importorskip("transformers", reason="the oracle")
    lm = tiny_model(seed)
    config = transformers.LlamaConfig(**write_config(lm.config))
    peer = transformers.LlamaForCausalLM(config).eval()
    peer.load_state_dict({name: torch.asarray(array) for name, array in lm.params.items()})

    prompt = lm.tokenizer.encode("Once")
    stop_ids = list(range(1, 30))
    expected = peer.generate(
        torch.asarray([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        num_beams=4,
        do_sample=False,
        max_new_tokens=15,
        length_penalty=length_penalty,
        eos_token_id=stop_ids,
        pad_token_id=0,
    )[0, len(prompt) :].tolist()
    out = lm.generate(
        prompt,
        num_beams=4,
        max_new_tokens=15,
        length_penalty=length_penalty,
        stop_token_ids=stop_ids,
    )
    assert out.token_ids == expected

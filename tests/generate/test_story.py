"""Generation with a trained model, the story model, against transformers."""

import numpy as np
import pytest

import xplm
from tests.paths import STORY, needs_story

pytestmark = needs_story

PROMPT = "Once upon a time"
OTHERS = ["The dog", PROMPT, "Lily and her mom went to the park. There they saw a big", "A"]


@pytest.fixture(scope="module")
def lm():
    return xplm.load(STORY)


@pytest.fixture(scope="module")
def peer():
    pytest.importorskip("torch", reason="transformers runs on torch")
    transformers = pytest.importorskip("transformers", reason="the oracle")
    return transformers.AutoModelForCausalLM.from_pretrained(STORY).eval()


def peer_generate(peer, ids, **options):
    import torch

    ids = torch.asarray([ids])
    out = peer.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, **options
    )
    return out[0, ids.shape[1] :].tolist()


def test_80_greedy_tokens_equal_transformers(lm, peer):
    ids = lm.tokenizer.encode(PROMPT)
    out = lm.generate(PROMPT, max_new_tokens=80)
    assert out.token_ids == peer_generate(peer, ids, max_new_tokens=80)
    assert out.text.startswith(", a little girl named Lily lived in a small house with her mom")


def test_repetition_penalty_equals_transformers(lm, peer):
    ids = lm.tokenizer.encode(PROMPT)
    options = {"max_new_tokens": 60, "repetition_penalty": 1.3}
    assert lm.generate(PROMPT, **options).token_ids == peer_generate(peer, ids, **options)


@pytest.mark.parametrize(
    ("num_beams", "length_penalty"),
    [
        (4, 1.0),
        (3, 0.0),
        *(pytest.param(*of_other, marks=pytest.mark.nightly) for of_other in ((2, 1.0), (5, 2.0))),
    ],
)
def test_beam_search_equals_transformers(lm, peer, num_beams, length_penalty):
    options = {"max_new_tokens": 40, "num_beams": num_beams, "length_penalty": length_penalty}
    for prompt in OTHERS[:3]:
        ids = lm.tokenizer.encode(prompt)
        assert lm.generate(prompt, **options).token_ids == peer_generate(peer, ids, **options)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.9, "top_k": 50, "top_p": 0.95}])
def test_a_batch_of_unequal_prompts_equals_each_alone(lm, options):
    batch = lm.generate(OTHERS, max_new_tokens=60, seed=[3, 1, 4, 1], **options)
    for prompt, seed, row in zip(OTHERS, [3, 1, 4, 1], batch, strict=True):
        alone = lm.generate(prompt, max_new_tokens=60, seed=seed, **options)
        assert row.text == alone.text
        # Two layers of width 128 in float32: some 1e-5 of rounding in logits of about 10.
        np.testing.assert_allclose(row.logprobs, alone.logprobs, atol=1e-4)


def test_prompt_and_text_read_as_one(lm):
    ids = lm.tokenizer.encode("One day")
    out = lm.generate(ids, max_new_tokens=20)
    assert out.text.startswith(" a little girl")
    assert lm.tokenizer.decode(ids) + out.text == lm.tokenizer.decode(ids + out.token_ids)

"""What a run writes, against transformers in float32."""

import numpy as np
import pytest

import xplm
from tests.train.runs import run_to, start, tiny_recipe

ARCHITECTURES = {
    "llama": {},
    "llama-gqa": {"model__num_key_value_heads": 1, "model__tie_word_embeddings": False},
    "llama-biases": {"model__attention_bias": True, "model__mlp_bias": True},
    "gpt": {"model__arch": "gpt"},
    "gpt-untied": {"model__arch": "gpt", "model__tie_word_embeddings": False},
    "gpt-one-head": {"model__arch": "gpt", "model__num_attention_heads": 1},
    "gpt-rope": {"model__arch": "gpt", "model__position": "rope", "model__num_key_value_heads": 1},
}
TOKENIZERS = ["char", "word", "bpe"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_trained_directory_gives_transformers_the_same_logits(tmp_path, load_oracle, name):
    recipe = tiny_recipe(tmp_path, **ARCHITECTURES[name])
    run_to(start(recipe, tmp_path / "run"))
    lm, oracle = xplm.load(tmp_path / "run"), load_oracle(tmp_path / "run")
    for seed, length in enumerate((1, 5, 8)):
        ids = np.random.default_rng(seed).integers(0, lm.config.vocab_size, length).tolist()
        assert np.abs(lm.logits(ids) - oracle.logits(ids)).max() <= 1e-4


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_its_tokenizer_is_transformers_too(tmp_path, transformers, tokenizer):
    size = {"data__vocab_size": 300} if tokenizer == "bpe" else {}
    run_to(start(tiny_recipe(tmp_path, data__tokenizer=tokenizer, **size), tmp_path / "run"))
    ours = xplm.load(tmp_path / "run").tokenizer
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "run")
    text = "the cat sat on a red mat and ran to the sea"
    assert theirs.encode(text) == ours.encode(text)
    assert theirs.decode(ours.encode(text)) == text == ours.decode(ours.encode(text))
    assert theirs.eos_token_id in ours.eos_token_ids

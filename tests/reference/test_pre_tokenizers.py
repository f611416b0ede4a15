"""The pre-tokenizers that GGUF files name cut words as the tokenizers of transformers do."""

import json

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from tests.text.corpus import CORPUS
from tests.text.test_gguf_tokenizer import random_texts
from tests.text.vocabularies import byte_level_metadata
from xplm.text.plain import plain_pipeline
from xplm.text.pre_tokenizers import PRE_TOKENIZERS
from xplm.text.tokenizer import Tokenizer

CLASSES = {
    "GPT2Tokenizer": ["gpt-2", "exaone4"],
    "GPTNeoXTokenizer": ["olmo"],
    "CohereTokenizer": ["command-r"],
    "Qwen2Tokenizer": ["qwen2"],
    "Qwen3_5Tokenizer": ["qwen35"],
}
SPECIAL = ("<|end|>", "<|im_start|>", "<|im_end|>")
TEXTS = [
    *CORPUS,
    *random_texts(3, 100),
    "éBé e\u0301B ǅaÉ DON'T we'Ve 12345 a/b//\n \n",
    "İıſK ﬁ Ⅷ½",
]


MERGES = 3000


@pytest.fixture(scope="module")
def metadata():
    """A vocabulary learnt from the texts as they are, so that its merges would join across any cut."""
    pipeline = tokenizers.Tokenizer(models.BPE())
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=MERGES, initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    pipeline.train_from_iterator([t for text in TEXTS for t in (text, text[1:])], trainer)
    pairs = json.loads(pipeline.to_str())["model"]["merges"]
    merges = [" ".join(pair) for pair in pairs if "".join(pair) not in SPECIAL]
    return lambda pre: byte_level_metadata(pre, merges)


def assert_equal(metadata, reference):
    tokenizer = Tokenizer.from_gguf(metadata)
    for text in TEXTS:
        expected = reference.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text, add_special_tokens=False, allow_special=False) == expected, (
            text
        )


@pytest.mark.parametrize(
    ("name", "pre"), [(name, pre) for name, names in CLASSES.items() for pre in names]
)
def test_words_are_those_of_the_class(transformers, metadata, name, pre):
    given = metadata(pre)
    vocab = {token: n for n, token in enumerate(given["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in given["tokenizer.ggml.merges"]]
    named = dict.fromkeys(("unk_token", "bos_token", "eos_token", "pad_token"), None)
    reference = getattr(transformers, name)(vocab=vocab, merges=merges, **named)
    assert_equal(given, plain_pipeline(reference.backend_tokenizer))


@pytest.mark.parametrize("pre", ["llama-bpe", "dbrx", "tekken", "gpt-4o"])
def test_words_are_those_of_a_gguf_file_in_transformers(transformers, metadata, pre):
    from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

    given = metadata(pre)
    fields = {key: given[f"tokenizer.ggml.{key}"] for key in ("tokens", "merges", "token_type")}
    fields |= {"tokenizer_type": "gpt2", "pre_tokenizer_type": pre}
    reference, _ = convert_gguf_tokenizer("llama", fields)
    reference.model.ignore_merges = PRE_TOKENIZERS[pre].ignore_merges
    reference.normalizer = Tokenizer.from_gguf(given).pipeline.normalizer
    assert_equal(given, plain_pipeline(reference))

"""Gemma 3 270M, from its GGUF file, against transformers in float32 on the same dequantised weights."""

import numpy as np
import pytest

import xplm
from tests.gemma3 import gemma3_gguf
from tests.reference.test_smollm2 import CHINESE, CODE, ENGLISH
from tests.text.corpus import CORPUS
from tests.text.test_gguf_tokenizer import random_texts
from xplm.checkpoint.gguf_header import read_gguf_header
from xplm.text.tokenizer import Tokenizer

pytestmark = pytest.mark.nightly  # transformers takes minutes to read the file

LOGITS_BOUND = 2e-3  # float32 over 18 layers whose residual stream grows to thousands
LENGTHS = (1, 17, 200, 1100)  # the window is of 512
PROMPTS = ["The capital of France is", "Once upon a time", "def softmax(x):\n", "从前有一座山"]
SPACES = [
    "a     b",
    " " * 40 + "x",
    "\n\n\n  \n",
    "tab\t\t  ",
    "a \u2581\u2581b",
    "<table>  <b>",
    "\u2581",
]
TURNS = (
    "{{ bos_token }}{% for m in messages %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""The format of Gemma's turns, which the file of this model, not tuned on chats, leaves out."""


@pytest.fixture(scope="module")
def path():
    return gemma3_gguf()


def test_tokens_equal_transformers(path, transformers):
    tokenizer = Tokenizer.from_gguf(read_gguf_header(path).metadata)
    reference = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in [*CORPUS, *SPACES, *random_texts(5, 500), ENGLISH, CODE, CHINESE]:
        ids = reference.encode(text)
        assert tokenizer.encode(text) == ids, text
        assert tokenizer.decode(ids, skip_special_tokens=False) == reference.decode(ids)


@pytest.mark.parametrize("text", [ENGLISH * 5, CODE * 6], ids=["english", "code"])
def test_logits_equal_transformers(lm, oracle, text):
    ids = lm.tokenizer.encode(text)[: max(LENGTHS)]
    assert len(ids) == max(LENGTHS)
    for length in LENGTHS:
        logits, expected = lm.logits(ids[:length]), oracle.logits(ids[:length])
        assert np.abs(logits - expected).max() <= LOGITS_BOUND
        np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_equals_transformers(lm, oracle, prompt):
    result = lm.generate(prompt, max_new_tokens=48)
    expected = oracle.greedy(lm.tokenizer.encode(prompt), 48)
    assert result.token_ids[: len(expected)] == expected
    assert result.text == lm.tokenizer.decode(result.token_ids)


def test_it_chats(lm, oracle):
    tokenizer = Tokenizer(lm.tokenizer.parts._replace(chat_template=TURNS))
    chat = xplm.LanguageModel(lm.config, lm.params, lm.rt, tokenizer).chat()
    for question in ("What is rain?", "And what is snow?"):
        prompt = chat.prompt_ids(question)
        assert [tokenizer.decode([token], skip_special_tokens=False) for token in prompt[:2]] == [
            "<bos>",
            "<start_of_turn>",
        ]
        out = chat.send(question, max_new_tokens=40)
        expected = oracle.greedy(prompt, 40)
        assert out.text.strip()
        assert out.token_ids[: len(expected)] == expected
    assert chat.n_turns == 2

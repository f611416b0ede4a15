"""SmolLM2-135M-Instruct, from its GGUF file, against transformers in float32 on the same dequantised weights.

The expected perplexity is transformers' own: 41.8086 in float32, 41.802 in float16, 41.823 in bfloat16.
"""

import numpy as np
import pytest

import xplm
from tests.paths import SHAKESPEARE, needs_shakespeare, smollm2_gguf

pytestmark = pytest.mark.nightly  # transformers takes half a minute to read the file

LOGITS_BOUND = (
    2e-3  # logits reach 47, where float32 is spaced at 4e-6; 30 layers of a dozen roundings each
)
PERPLEXITY = 41.809
LENGTHS = (1, 17, 200)  # tokens

ENGLISH = (
    "The history of the lighthouse begins with fires lit on hilltops to guide ships home. In time people built towers, "
    "first of wood and then of stone, and put lamps at their tops. Each lamp had its own pattern of flashes, so that a "
    "captain who saw one at night could tell from the chart which coast lay before him. Keepers trimmed the wicks, "
    "wound the clockwork, polished the lenses and wrote down the weather, four times a day, for years on end. "
) * 3
CODE = (
    "def merge_sort(items):\n    if len(items) < 2:\n        return items\n    middle = len(items) // 2\n"
    "    left, right = merge_sort(items[:middle]), merge_sort(items[middle:])\n    merged = []\n"
    "    while left and right:\n        merged.append((left if left[0] <= right[0] else right).pop(0))\n"
    "    return merged + left + right\n\nprint(merge_sort([3, 1, 2]))  # [1, 2, 3]\n"
) * 3
CHINESE = (
    "从前有一座山，山上有一座庙。庙里的老和尚每天清晨敲钟，钟声传遍整个山谷，村民们听到钟声便开始一天的劳作。"
    * 6
)

PROMPTS = [
    "The capital of France is",
    "Once upon a time",
    "import numpy as np\n\ndef softmax(x):\n",
    "<|im_start|>user\nWhat is the sun made of?<|im_end|>\n<|im_start|>assistant\n",
    "Q: What is 12 times 12?\nA:",
    "从前有一座山",
    "Dear Sir or Madam,\n\n",
    "1, 1, 2, 3, 5, 8,",
    "The three most important ideas in physics are",
    "<|im_start|>user\nWrite a haiku about rain.<|im_end|>\n<|im_start|>assistant\n",
]


@pytest.fixture(scope="module")
def path():
    return smollm2_gguf()


@pytest.mark.parametrize("text", [ENGLISH, CODE, CHINESE], ids=["english", "code", "chinese"])
def test_logits_equal_transformers(lm, oracle, text):
    ids = lm.tokenizer.encode(text)[: max(LENGTHS)]
    assert len(ids) == max(LENGTHS)
    for length in LENGTHS:
        logits, expected = lm.logits(ids[:length]), oracle.logits(ids[:length])
        assert np.abs(logits - expected).max() <= LOGITS_BOUND
        np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))


def test_64_greedy_tokens_equal_transformers(lm, oracle):
    # Ids are transformers' own greedy choice if and only if each is the arg-max after the ones before it.
    results = lm.generate(PROMPTS, max_new_tokens=64, temperature=0.0)
    assert len(results) == len(PROMPTS)
    for prompt, result in zip(PROMPTS, results, strict=True):
        given = lm.tokenizer.encode(prompt)
        expected = oracle.logits([*given, *result.token_ids]).argmax(-1)[len(given) - 1 :].tolist()
        assert [*result.token_ids] == expected[: len(result.token_ids)]
        if result.finish_reason == "stop":
            ends = lm.tokenizer.eos_token_ids
            assert result.token_ids[-1] in ends or expected[len(result.token_ids)] in ends
        else:
            assert len(result.token_ids) == 64


def test_one_prompt_alone_as_transformers_generates_it(lm, oracle):
    result = lm.generate(PROMPTS[0], max_new_tokens=32, temperature=0.0)
    expected = oracle.greedy(lm.tokenizer.encode(PROMPTS[0]), 32)
    assert [*result.token_ids] == expected[: len(result.token_ids)]
    assert len(result.token_ids) >= len(expected) - 1  # the end of sequence may be left out
    assert result.text.startswith(" Paris.")


def shakespeare():
    with SHAKESPEARE.open(encoding="utf-8", newline="") as file:
        return file.read(20_000)


@needs_shakespeare
def test_perplexity_is_transformers(lm):
    result = lm.perplexity(shakespeare(), window=512)
    assert result.tokens == 6075
    assert result.perplexity == pytest.approx(PERPLEXITY, abs=0.01)


@needs_shakespeare
@pytest.mark.parametrize("policy", ["fp16", "bf16"])
def test_perplexity_in_half_precision_is_within_3_in_1000(path, policy):
    result = xplm.load(path, policy=policy).perplexity(shakespeare(), window=512)
    assert result.tokens == 6075
    assert result.perplexity == pytest.approx(PERPLEXITY, rel=3e-3)

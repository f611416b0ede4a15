"""A model small enough to run in milliseconds, with random weights and a tokenizer of single bytes.

Its weights are drawn wide, so that its logits are far apart: a greedy choice then never hangs on rounding.
"""

from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from tests.tiny import make_config, make_params
from xplm.backend import Backend, load_backend
from xplm.language_model import LanguageModel
from xplm.runtime import make_runtime
from xplm.text.parts import TokenizerParts
from xplm.text.tokenizer import Tokenizer

CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message.role }}\n{{ message.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def tiny_tokenizer() -> Tokenizer:
    """One token a byte, after <s>, which is 0, and </s>, which is 1 and ends a text."""
    special = {"<s>": 0, "</s>": 1}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = special | {symbol: len(special) + i for i, symbol in enumerate(alphabet)}
    pipeline = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pipeline.decoder = decoders.ByteLevel()
    pipeline.add_special_tokens(list(special))
    named = {"bos_token": "<s>", "eos_token": "</s>"}
    return Tokenizer(TokenizerParts(pipeline, named, (1,), CHAT_TEMPLATE))


def tiny_model(
    seed: int = 0,
    policy: str = "fp32",
    backend: Backend | None = None,
    kernels: str = "fused",
    **changes: Any,
) -> LanguageModel:
    """A model with random weights; changes are fields of its config.json."""
    fields = {"vocab_size": 258, "max_position_embeddings": 256, "eos_token_id": 1}
    fields |= {"hidden_size": 32, "intermediate_size": 48}
    config = make_config(**(fields | changes))
    rt = make_runtime(backend or load_backend("numpy"), policy, kernels)
    return LanguageModel(config, make_params(rt, config, seed), rt, tiny_tokenizer())

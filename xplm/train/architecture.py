"""From a recipe's [model] to a decoder's configuration.

    llama   Hugging Face's llama: RMSNorm, RoPE, SwiGLU, no biases
    gpt     gpt2: LayerNorm, learned positions, GELU, biases; or, with position = "rope", starcoder2, the same with RoPE

so that whatever is trained, transformers knows the model.
"""

from typing import Any, Protocol

from xplm.config import DecoderConfig
from xplm.errors import RequestError, did_you_mean
from xplm.models.families.config_json import read_config
from xplm.models.families.table import FAMILIES
from xplm.train.recipe import ModelRecipe

MODEL_TYPES = {
    ("llama", None): "llama",
    ("llama", "rope"): "llama",
    ("gpt", None): "gpt2",
    ("gpt", "learned"): "gpt2",
    ("gpt", "rope"): "starcoder2",
}
"""(arch, position) -> Hugging Face's model_type."""

MULTIPLE = 8
"""Widths of a SwiGLU are rounded up to a multiple of this."""


class Vocabulary(Protocol):
    """What a model needs to know of its tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Token ids."""
        ...

    @property
    def bos_token_id(self) -> int | None:
        """The id that begins a text."""
        ...

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The ids that end one."""
        ...

    @property
    def pad_token_id(self) -> int | None:
        """The id that fills up."""
        ...


def make_config(model: ModelRecipe, context: int, tokenizer: Vocabulary) -> DecoderConfig:
    """The configuration of a new model.

    Args:
        model: the recipe's section.
        context: tokens to a sequence, and so the positions that the model has where the recipe does not say.
        tokenizer: decides the vocabulary and its special ids.

    Raises:
        RequestError: there is no such architecture.
        ConfigError: the fields contradict each other.
    """
    model_type = MODEL_TYPES.get((model.arch, model.position))
    if model_type is None:
        raise RequestError(
            'model.arch is "llama", or "gpt" with position "learned" or "rope"; '
            f"got {model.arch!r} with position {model.position!r}"
            f"{did_you_mean(model.arch, ('llama', 'gpt')) if model.arch not in ('llama', 'gpt') else ''}"
        )
    family = FAMILIES[model_type]
    if model_type == "gpt2" and (model.num_key_value_heads or model.head_dim):
        raise RequestError(
            "a gpt with learned positions has as many key/value heads as query heads, of hidden_size / heads each; "
            "got num_key_value_heads or head_dim; leave them out, or set model.position=rope"
        )
    is_gpt = model.arch == "gpt"
    C = model.hidden_size
    hf: dict[str, Any] = {
        "model_type": model_type,
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": C,
        "intermediate_size": model.intermediate_size or (4 * C if is_gpt else _swiglu_width(C)),
        "num_hidden_layers": model.num_hidden_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_key_value_heads,
        "head_dim": model.head_dim,
        "max_position_embeddings": model.max_position_embeddings or context,
        family.norm_eps_key: model.norm_eps,
        "rope_theta": model.rope_theta,
        "tie_word_embeddings": model.tie_word_embeddings,
        "initializer_range": model.initializer_range,
        "use_bias": is_gpt,
        "attention_bias": model.attention_bias,
        "mlp_bias": model.mlp_bias,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": list(tokenizer.eos_token_ids),
        "pad_token_id": tokenizer.pad_token_id,
    }
    # A token that the tokenizer lacks is said to be absent; what else is left open takes the family's default.
    given = {k: v for k, v in hf.items() if v is not None or k.endswith("token_id")}
    spelt = {family.spelling.get(key, key): v for key, v in given.items()}
    return read_config({key: v for key, v in spelt.items() if key in family.keys})


def _swiglu_width(hidden_size: int) -> int:
    """8/3 of the width, so that its three matrices hold what a GELU's two of 4 widths do (arXiv:2002.05202)."""
    return -(-8 * hidden_size // (3 * MULTIPLE)) * MULTIPLE

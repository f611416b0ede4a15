"""The families of decoders: what a model_type means beyond its config.json, and which of its keys are read.

A key of config.json is one of four kinds.

    read        stands in the family's `keys`
    inert       changes no logits: names, dtypes, labels, dropout, sampling
    fixed       transformers knows it and xplm has one value of it alone; any other is refused
    unknown     transformers does not read it either; it is named in a warning and ignored

Source: transformers' configuration classes, 4.57 and 5.23.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from reprlib import repr as shown  # a value of any length, cut short
from typing import Any

from xplm.errors import ConfigError, visible
from xplm.rope_scaling import unread_rope_keys

_log = logging.getLogger(__name__)

MAX_LISTED = 20  # keys in a message
MAX_KEY_CHARS = 80

COMMON = (
    "model_type",
    "vocab_size",
    "tie_word_embeddings",
    "initializer_range",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "hidden_act",
    "layer_types",
)
ROPE = ("rope_theta", "rope_scaling", "rope_parameters", "original_max_position_embeddings")

FIXED: Mapping[str, Any] = {
    "is_causal": True,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "tie_encoder_decoder": False,
    "pruned_heads": {},
    "per_layer_config": {},
    "partial_rotary_factor": 1.0,
    "attention_chunk_size": None,
    "kv_sharing_modes": None,
    "fusion_config": None,
    "transformers_weights": None,
}
"""Keys of every family that xplm has one value of; null is that value too, but for `is_causal`."""

QUANTIZATION = ("quantization_config", "compression_config")

INERT = frozenset((
    "architectures", "auto_map", "base_model_pp_plan", "base_model_tp_plan", "custom_pipelines", "_commit_hash",
    "_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype", "torchscript", "use_bfloat16",
    "tf_legacy_loss", "use_cache", "return_dict", "use_return_dict", "output_attentions", "output_hidden_states",
    "_output_attentions", "tie_last_hidden_states", "chunk_size_feed_forward", "attn_implementation",
    "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal",
    "experts_implementation", "_experts_implementation", "_experts_implementation_internal",
    "gradient_checkpointing", "distributed_config", "is_decoder", "tokenizer_class", "prefix", "sep_token_id",
    "decoder_start_token_id", "finetuning_task", "task_specific_params", "problem_type", "id2label", "label2id",
    "num_labels", "attention_dropout", "classifier_dropout", "hidden_dropout", "max_length", "min_length",
    "max_new_tokens", "min_new_tokens", "do_sample", "early_stopping", "num_beams", "temperature", "top_k", "top_p",
    "min_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "epsilon_cutoff", "eta_cutoff",
    "encoder_repetition_penalty", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind", "num_beam_groups",
    "diversity_penalty",
))  # fmt: skip
"""Keys of every family that change no logits."""


@dataclass(frozen=True)
class Family:
    """What a model_type means beyond its config.json."""

    architecture: str  # transformers' class name
    keys: tuple[str, ...]  # of config.json, that are read
    norm: str = "rms_norm"  # or "layer_norm"
    norm_eps_key: str = "rms_norm_eps"
    activation: str = "swiglu"  # or "gelu"
    hidden_acts: tuple[str, ...] = ("silu", "swish")  # spellings of it, the one to write first
    position: str = "rope"  # or "learned"
    attention_bias: bool | str = False  # of q, k and v: a fact, or the key that says
    output_bias: bool | str = False  # of o
    mlp_bias: bool | str = False
    has_window: bool = False  # whether a sliding window is read at all
    window_switch: str | None = None  # key that turns it on; None: it is on when set
    windowed_from: str | None = None  # key of the first layer that has it; None: all have
    has_layer_types: bool = False  # whether a key says which layers have it
    has_attention_scales: bool = False  # whether keys say what attention scores are scaled by
    inert: tuple[str, ...] = ()  # further keys of transformers' class, which change no logits
    spelling: Mapping[str, str] = field(default_factory=dict)  # our key -> the family's
    aliases: tuple[str, ...] = ()  # our keys that transformers' class takes for the family's
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of keys that config.json leaves out


FAMILIES = {
    "llama": Family(
        "LlamaForCausalLM",
        keys=(*COMMON, *SIZES, *ROPE, "rms_norm_eps", "attention_bias", "mlp_bias"),
        inert=("pretraining_tp",),
        attention_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
        defaults={"bos_token_id": 1, "eos_token_id": 2},
    ),
    "mistral": Family(
        "MistralForCausalLM",
        keys=(*COMMON, *SIZES, *ROPE, "rms_norm_eps", "sliding_window"),
        has_window=True,
        defaults={
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "sliding_window": 4096,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM",
        keys=(
            *COMMON,
            *SIZES,
            *ROPE,
            "rms_norm_eps",
            "use_sliding_window",
            "sliding_window",
            "max_window_layers",
        ),
        attention_bias=True,
        has_window=True,
        window_switch="use_sliding_window",
        windowed_from="max_window_layers",
        has_layer_types=True,
        defaults={
            "num_key_value_heads": 32,
            "max_position_embeddings": 32768,
            "sliding_window": 4096,
            "max_window_layers": 28,
        },
    ),
    "gpt2": Family(
        "GPT2LMHeadModel",
        keys=(
            *COMMON,
            "n_embd",
            "n_inner",
            "n_layer",
            "n_head",
            "n_positions",
            "activation_function",
            "layer_norm_epsilon",
            "scale_attn_weights",
            "scale_attn_by_inverse_layer_idx",
            "head_dim",
            "layer_types",
        ),
        aliases=(
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
        ),
        has_attention_scales=True,
        inert=(
            "n_ctx",
            "resid_pdrop",
            "embd_pdrop",
            "attn_pdrop",
            "reorder_and_upcast_attn",
            "summary_type",
            "summary_use_proj",
            "summary_activation",
            "summary_proj_to_labels",
            "summary_first_dropout",
            "summary_last_dropout",
        ),
        norm="layer_norm",
        norm_eps_key="layer_norm_epsilon",
        activation="gelu",
        hidden_acts=("gelu_new", "gelu_pytorch_tanh"),
        position="learned",
        attention_bias=True,
        output_bias=True,
        mlp_bias=True,
        spelling={
            "hidden_size": "n_embd",
            "intermediate_size": "n_inner",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "num_key_value_heads": "n_head",
            "max_position_embeddings": "n_positions",
            "hidden_act": "activation_function",
        },
        defaults={
            "n_positions": 1024,
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
        },
    ),
    "starcoder2": Family(
        "Starcoder2ForCausalLM",
        keys=(*COMMON, *SIZES, *ROPE, "norm_epsilon", "use_bias", "sliding_window"),
        inert=("residual_dropout", "embedding_dropout"),
        norm="layer_norm",
        norm_eps_key="norm_epsilon",
        activation="gelu",
        hidden_acts=("gelu_pytorch_tanh", "gelu_new"),
        attention_bias="use_bias",
        output_bias="use_bias",
        mlp_bias="use_bias",
        has_window=True,
        defaults={
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "norm_epsilon": 1e-5,
            "use_bias": True,
            "tie_word_embeddings": True,
        },
    ),
}


def check_keys(hf: Mapping[str, Any], model_type: str) -> None:
    """Refuse keys of a config.json that ask for what xplm does not have; warn of those that nobody knows.

    Args:
        hf: the parsed JSON object.
        model_type: its family, one of FAMILIES.

    Raises:
        ConfigError: the weights are quantised, or a key that xplm has one value of has another.
    """
    family = FAMILIES[model_type]
    for key in QUANTIZATION:
        if hf.get(key):
            raise ConfigError(
                f"weights must be plain floats; {key} says {_quantization_method(hf[key])}; "
                "load the original model or a GGUF file of it, or dequantise this one with transformers"
            )
    for key, only in FIXED.items():
        value = hf.get(key, only)
        if value != only and not (value is None and key != "is_causal"):
            raise ConfigError(
                f"{key} must be {json.dumps(only)} or left out, for xplm has no model of another kind; "
                f"got {shown(value)}"
            )
    known = {*family.keys, *family.aliases, *family.inert, *INERT, *FIXED, *QUANTIZATION}
    unknown = [key for key, value in hf.items() if key not in known and value is not None]
    if family.position == "rope":
        unknown += unread_rope_keys(hf)
    if unknown:
        names = ", ".join(visible(key[:MAX_KEY_CHARS]) for key in unknown[:MAX_LISTED])
        more = f" and {len(unknown) - MAX_LISTED} more" if len(unknown) > MAX_LISTED else ""
        _log.warning(
            "config.json has keys that neither xplm nor transformers' %s reads; they are ignored: %s%s",
            model_type,
            names,
            more,
        )


def _quantization_method(value: Any) -> str:
    """Such as "gptq"; older files of bitsandbytes name no method."""
    given = value if isinstance(value, Mapping) else {}
    method = given.get("quant_method")
    if method is None and (given.get("load_in_4bit") or given.get("load_in_8bit")):
        method = "bitsandbytes"
    return shown(value if method is None else method)

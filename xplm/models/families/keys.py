"""The keys of a config.json: read, inert, fixed or unknown.

    read        listed in the family's `keys`
    inert       changes no logits: names, dtypes, labels, dropout, sampling
    fixed       transformers knows it and xplm has one value of it alone; any other is refused
    unknown     transformers does not read it either; it is named in a warning and ignored

Source: transformers' configuration classes, 4.57 and 5.23.
"""

import json
import logging
from collections.abc import Mapping
from reprlib import repr as shown  # a value of any length, cut short
from typing import Any

from xplm.errors import ConfigError, visible
from xplm.models.families.family import Family
from xplm.rope_scaling import unread_rope_keys

_log = logging.getLogger(__name__)

MAX_LISTED = 20  # keys in a message
MAX_KEY_CHARS = 80

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


def check_keys(hf: Mapping[str, Any], family: Family) -> None:
    """Refuse keys of a config.json that ask for what xplm does not have; warn of those that nobody knows.

    Args:
        hf: the parsed JSON object.
        family: whose it is.

    Raises:
        ConfigError: the weights are quantised, or a key that xplm has one value of has another.
    """
    for key in QUANTIZATION:
        if hf.get(key) and not (
            key == "quantization_config" and quant_method(hf) in family.quant_methods
        ):
            raise ConfigError(
                f"weights must be plain floats; {key} says {_named_method(hf[key])}; "
                "load the original model or a GGUF file of it, or dequantise this one with transformers"
            )
    for key, only in FIXED.items():
        if key in family.keys:
            continue
        value = hf.get(key, only)
        if value != only and not (value is None and key != "is_causal"):
            raise ConfigError(
                f"{key} must be {json.dumps(only)} or left out, for xplm has no model of another kind; "
                f"got {shown(value)}"
            )
    known = {*family.keys, *family.aliases, *family.inert, *INERT, *FIXED, *QUANTIZATION}
    unknown = [key for key, value in hf.items() if key not in known and value is not None]
    if "rope_theta" in family.keys:
        unknown += unread_rope_keys(hf)
    if unknown:
        names = ", ".join(visible(key[:MAX_KEY_CHARS]) for key in unknown[:MAX_LISTED])
        more = f" and {len(unknown) - MAX_LISTED} more" if len(unknown) > MAX_LISTED else ""
        _log.warning(
            "config.json has keys that neither xplm nor transformers' %s reads; they are ignored: %s%s",
            family.model_type,
            names,
            more,
        )


def quant_method(hf: Mapping[str, Any]) -> Any:
    """How config.json says that weights are quantised, such as "mxfp4"; None where it does not."""
    given = hf.get("quantization_config")
    return given.get("quant_method") if isinstance(given, Mapping) else None


def _named_method(value: Any) -> str:
    """Such as "gptq"; older files of bitsandbytes name no method."""
    given = value if isinstance(value, Mapping) else {}
    method = given.get("quant_method")
    if method is None and (given.get("load_in_4bit") or given.get("load_in_8bit")):
        method = "bitsandbytes"
    return shown(value if method is None else method)

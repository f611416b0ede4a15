"""The sampling values that a model comes with.

    generation_config.json   of a Hugging Face directory
    general.sampling.*       of a GGUF file, with the names of llama.cpp

As for transformers, decoding is greedy unless generation_config.json has `do_sample`; where it has, `temperature` is 1
and `top_k` is 50 unless it says otherwise.

What a file asks for beyond these values, and could change a reply, is reported in `ignored`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xplm.checkpoint.checkpoint import Checkpoint
from xplm.checkpoint.files import write_json
from xplm.checkpoint.untrusted import read_json_object

GENERATION_CONFIG = "generation_config.json"

HONOURED = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")

SAMPLED_BY_DEFAULT = {"temperature": 1.0, "top_k": 50}
"""What transformers takes for values that a file with `do_sample` leaves out."""

HARMLESS = frozenset(
    {
        "_commit_hash", "_from_model_config", "transformers_version", "use_cache", "cache_implementation",
        "cache_config", "max_cache_len", "output_attentions", "output_hidden_states", "output_scores", "output_logits",
        "return_dict_in_generate", "renormalize_logits", "remove_invalid_values", "compile_config", "disable_compile",
        "continuous_batching_config", "low_memory", "prefill_chunk_size", "use_mtp", "is_assistant",
        "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
        "assistant_early_exit", "assistant_lookbehind", "target_lookbehind", "prompt_lookup_num_tokens",
        "max_matching_ngram_size", "speculation_type", "bos_token_id", "pad_token_id", "decoder_start_token_id",
        "eos_token_id",  # read with the tokenizer
        "max_length",  # transformers too follows max_new_tokens where both are given
    }
)  # fmt: skip
"""Keys of generation_config.json that do not change a reply, whatever their value."""

NEUTRAL: Mapping[str, Any] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "typical_p": 1.0,
    "length_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "guidance_scale": 1.0,
}
"""Values that change nothing, of keys that are not honoured; so do null, false, 0, "" and empty lists and objects."""

GGUF_PREFIX = "general.sampling."
GGUF_NAMES = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
GGUF_WHOLE_TEXT = -1  # penalty_last_n: the penalty counts every token, as ours does


@dataclass(frozen=True)
class ModelSampling:
    """How a model's authors would have its tokens chosen."""

    options: Mapping[str, Any] = field(default_factory=dict)  # of SamplingOptions, not checked yet
    ignored: Mapping[str, Any] = field(default_factory=dict)  # asked for, but not honoured
    source: str = GENERATION_CONFIG  # where it stands


NO_SAMPLING = ModelSampling()


def read_sampling(checkpoint: Checkpoint) -> ModelSampling:
    """The sampling values of a checkpoint; none where it has none.

    Raises:
        CheckpointError: generation_config.json is not a JSON object.
    """
    if checkpoint.gguf_metadata is not None:
        return sampling_from_gguf(checkpoint.gguf_metadata)
    path = checkpoint.path / GENERATION_CONFIG
    return sampling_from_config(read_json_object(path) if os.path.lexists(path) else {})


def sampling_from_config(config: Mapping[str, Any]) -> ModelSampling:
    """The sampling values of a generation_config.json."""
    options = {name: config[name] for name in HONOURED if config.get(name) is not None}
    if config.get("stop_strings"):
        options["stop"] = config["stop_strings"]
    read = {*HONOURED, "stop_strings", "do_sample", *HARMLESS}
    ignored = {
        name: value
        for name, value in config.items()
        if name not in read and value and value != NEUTRAL.get(name)
    }

    is_sampled = config.get("do_sample")
    if is_sampled is True:
        options = SAMPLED_BY_DEFAULT | options
    else:
        if options.get("temperature") not in (None, 0, 1):
            ignored["temperature"] = options["temperature"]
        options.pop("temperature", None)
        if is_sampled not in (None, False):
            ignored["do_sample"] = is_sampled
    return ModelSampling(options, ignored)


def sampling_from_gguf(metadata: Mapping[str, Any]) -> ModelSampling:
    """The sampling values of a GGUF file's metadata."""
    given = {
        key.removeprefix(GGUF_PREFIX): _as_written(value)
        for key, value in metadata.items()
        if key.startswith(GGUF_PREFIX)
    }
    options = {name: given.pop(key) for key, name in GGUF_NAMES.items() if key in given}
    if options.keys() & {"top_k", "top_p", "min_p"}:
        options = {"temperature": 1.0} | options
    for name in ("temperature", "top_k"):  # below 0, too, llama.cpp is greedy and keeps all
        if isinstance(options.get(name), int | float):
            options[name] = max(0, options[name])

    if given.get("penalty_last_n") == 0:
        options.pop("repetition_penalty", None)
    if given.get("penalty_last_n") == GGUF_WHOLE_TEXT or "repetition_penalty" not in options:
        given.pop("penalty_last_n", None)
    for switch, details in (
        ("xtc_probability", ["xtc_threshold"]),
        ("mirostat", ["mirostat_tau", "mirostat_eta"]),
    ):
        if not given.get(switch):
            for name in (switch, *details):
                given.pop(name, None)
    ignored = {GGUF_PREFIX + name: value for name, value in given.items()}
    return ModelSampling(options, ignored, "the GGUF file")


def add_sampling(directory: Path, sampling: ModelSampling) -> None:
    """Add sampling values to the generation_config.json of a directory that is being written.

    Raises:
        CheckpointError: the file is not a JSON object.
        OSError: it cannot be written.
    """
    if sampling.options:
        config = read_json_object(directory / GENERATION_CONFIG)
        is_sampled = sampling.options.get("temperature", 0) != 0
        write_json(
            directory / GENERATION_CONFIG, {**config, "do_sample": is_sampled, **sampling.options}
        )


def _as_written(value: Any) -> Any:
    """A float32 of a file as the decimal that it was written from: 0.7, not 0.699999988."""
    return float(str(np.float32(value))) if isinstance(value, float) else value

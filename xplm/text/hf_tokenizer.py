"""The tokenizer files of a Hugging Face directory.

    tokenizer.json            the pipeline: normaliser, pre-tokeniser, vocabulary, merges, post-processor, decoder
    tokenizer_config.json     the special tokens by name, further tokens, settings; the chat template
    generation_config.json    the ids that end a text, which may be more than the one `eos_token`
    config.json               how many ids the model has

Only the first must be there; where no file of a tokenizer is, the model takes and gives token ids alone. What else says
something of tokens is in `xplm.text.declared_tokens`, and of chat templates in `xplm.text.template_files`. Truncation
and padding, which tokenizer.json can hold, are turned off: neither belongs to a model's prompt.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from xplm.checkpoint.files import replacing
from xplm.checkpoint.untrusted import MAX_LARGE_BYTES
from xplm.errors import TokenizerError
from xplm.models.families.wrappers import text_config
from xplm.text.declared_tokens import add_declared, read_declared
from xplm.text.faults import library_faults
from xplm.text.json_files import read_object, read_optional_text
from xplm.text.parts import TokenizerParts, has_tokens, no_pipeline, unique_ids
from xplm.text.prefix_space import PREFIX_SPACE_CLASSES, has_prefix_space, with_prefix_space
from xplm.text.template_files import read_templates, to_config

TOKENIZER_FILES = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*.tiktoken",
    "tekken.json",
    "*piece*.model",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""What the files of a tokenizer are named, in any form."""

MAX_ID = 2**31 - 1
PROBE = "a b\U0010fffd"  # the last character is in no vocabulary

_AS_IT_IS = ""
_MODEL_TYPES = {
    "CohereTokenizer": ("cohere", "cohere2"),
    "GPT2Tokenizer": ("gpt2", "opt", "phi", "starcoder2"),
    "GPTNeoXTokenizer": ("gpt_neox", "olmoe"),
    "GemmaTokenizer": ("gemma", "gemma2", "gemma3_text"),
    "Qwen2Tokenizer": ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"),
    _AS_IT_IS: (
        *("ernie4_5", "glm4", "glm4_moe", "granite", "granitemoe", "mistral", "mixtral"),
        *("nemotron", "olmo2", "olmo3", "phi3", "stablelm"),
    ),
}
"""Classes of transformers, and the model_types whose files they read if these name no class.

Files of a model_type that takes tokenizer.json as it is may name any.
"""

_CLASS_OF = {model_type: name for name, types in _MODEL_TYPES.items() for model_type in types}
_MISNAMED = ("qwen2",)
"""Model_types whose files are read by their class whatever they name."""

_log = logging.getLogger(__name__)


def read_directory(directory: Path) -> TokenizerParts:
    """Read the tokenizer of a directory.

    Raises:
        TokenizerError: a file is missing, malformed, or contradicts another.
    """
    ends = _read_ends(directory)
    if not _has_tokenizer(directory):
        _log.warning("no tokenizer in %s: the model takes and gives token ids alone", directory)
        return TokenizerParts(no_pipeline(), {}, unique_ids(ends), None)
    pipeline = _read_pipeline(directory / "tokenizer.json")
    config = read_object(directory / "tokenizer_config.json")
    model = text_config(read_object(directory / "config.json"))

    pipeline = _set_prefix_space(pipeline, config, model)
    if config.get("split_special_tokens"):
        raise TokenizerError(
            f"split_special_tokens must be false, got true in {directory}/tokenizer_config.json: "
            "xplm reads special tokens that a prompt spells out as such; remove the key"
        )
    n_rows = model.get("vocab_size")
    with library_faults(f"the tokens of {directory} must fit its tokenizer.json"):
        special_tokens = add_declared(
            pipeline,
            read_declared(directory, config),
            n_rows if type(n_rows) is int else None,
        )
    _check_surround(pipeline, config, special_tokens)

    if "eos_token" in special_tokens:
        ends.insert(0, pipeline.token_to_id(special_tokens["eos_token"]))
    template, named = read_templates(directory, config)
    return TokenizerParts(pipeline, special_tokens, unique_ids(ends), template, named)


def write_directory(directory: Path, parts: TokenizerParts) -> None:
    """Write the files that `read_directory` and transformers read, each replaced as a whole.

    Raises:
        OSError: the directory is not there or not writable.
    """
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # the class that takes tokenizer.json as it is
        "clean_up_tokenization_spaces": False,
        **parts.special_tokens,
    }
    template = to_config(parts.chat_template, parts.named_templates)
    if template is not None:
        config["chat_template"] = template
    generation: dict[str, Any] = {"eos_token_id": list(parts.eos_token_ids)}
    for name in ("bos_token", "pad_token"):
        if name in parts.special_tokens:
            generation[f"{name}_id"] = parts.pipeline.token_to_id(parts.special_tokens[name])

    if has_tokens(parts.pipeline):
        _replace_text(directory / "tokenizer.json", parts.pipeline.to_str(pretty=True))
        _replace_text(directory / "tokenizer_config.json", _to_json(config))
    _replace_text(directory / "generation_config.json", _to_json(generation))


def _has_tokenizer(directory: Path) -> bool:
    """Whether a directory holds any file of a tokenizer, or is none."""
    return not directory.is_dir() or any(
        name for pattern in TOKENIZER_FILES for name in directory.glob(pattern)
    )


def _read_ends(directory: Path) -> list[Any]:
    """The ids of generation_config.json that end a text."""
    generation = read_object(directory / "generation_config.json")
    eos = generation.get("eos_token_id")
    ends = [i for i in (eos if isinstance(eos, list) else [eos]) if i is not None]
    for token_id in ends:
        if type(token_id) is not int or not 0 <= token_id <= MAX_ID:
            raise TokenizerError(
                f"eos_token_id must be token ids from 0, got {token_id!r} in {directory}/generation_config.json: "
                "correct it"
            )
    return ends


def _read_pipeline(path: Path) -> tokenizers.Tokenizer:
    text = read_optional_text(path, MAX_LARGE_BYTES)
    if text is None:
        raise TokenizerError(
            f"a Hugging Face directory must hold tokenizer.json, and {path.parent} does not: "
            "save the tokenizer there with AutoTokenizer.save_pretrained of transformers"
        )
    with library_faults(f"{path} must be a tokenizer of the tokenizers library"):
        pipeline = tokenizers.Tokenizer.from_str(text)
        pipeline.no_truncation()
        pipeline.no_padding()
        for probe in ("", PROBE):  # much that contradicts itself shows here
            pipeline.decode(pipeline.encode(probe).ids)
    return pipeline


def _set_prefix_space(
    pipeline: tokenizers.Tokenizer, config: Mapping[str, Any], model: Mapping[str, Any]
) -> tokenizers.Tokenizer:
    """The pipeline as `add_prefix_space` wants it, where the tokenizer's class lets that decide."""
    wanted, found = config.get("add_prefix_space"), has_prefix_space(pipeline)
    name = _tokenizer_class(pipeline, config, model)
    if type(wanted) is not bool:
        wanted = PREFIX_SPACE_CLASSES.get(name)
    if wanted is None or found is None or wanted == found:
        return pipeline
    if name in PREFIX_SPACE_CLASSES:
        return with_prefix_space(pipeline, wanted)
    _log.warning(
        "add_prefix_space is %s in tokenizer_config.json and %s in tokenizer.json, which decides",
        wanted,
        found,
    )
    return pipeline


def _tokenizer_class(
    pipeline: tokenizers.Tokenizer, config: Mapping[str, Any], model: Mapping[str, Any]
) -> str:
    """Name of the class that transformers 5 takes; empty where it takes tokenizer.json as it is."""
    model_type = str(model.get("model_type"))
    usual = _CLASS_OF.get(model_type)
    named = str(config.get("tokenizer_class") or model.get("tokenizer_class") or "")
    name = usual if usual and (not named or model_type in _MISNAMED) else named.removesuffix("Fast")
    is_byte_level = isinstance(pipeline.decoder, tokenizers.decoders.ByteLevel)
    if usual == _AS_IT_IS or (name == "LlamaTokenizer" and is_byte_level):
        return _AS_IT_IS
    return name


def _check_surround(
    pipeline: tokenizers.Tokenizer, config: Mapping[str, Any], special_tokens: Mapping[str, str]
) -> None:
    """Warn where tokenizer_config.json asks for a BOS or EOS token that tokenizer.json does not add, or the reverse."""
    added = pipeline.encode("").ids
    for name in ("bos_token", "eos_token"):
        wanted = config.get(f"add_{name}")
        found = name in special_tokens and pipeline.token_to_id(special_tokens[name]) in added
        if type(wanted) is bool and wanted != found:
            _log.warning(
                "add_%s is %s in tokenizer_config.json and %s in tokenizer.json, which decides",
                name,
                wanted,
                found,
            )


def _to_json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _replace_text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())

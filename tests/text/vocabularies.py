"""Small vocabularies in the form of GGUF metadata, and the file that they make."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
from gguf import TokenType
from tokenizers import pre_tokenizers

SPACE = "\u2581"


def byte_level_metadata(pre: str, merges: Sequence[str]) -> dict[str, Any]:
    """Three control tokens, the 256 bytes, and one token a merge."""
    control = ["<|end|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    joined = [merge.replace(" ", "") for merge in merges]
    tokens = [*control, *alphabet, *joined]
    types = [TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 3)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(kind) for kind in types],
        "tokenizer.ggml.merges": list(merges),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def sentencepiece_metadata(pieces: Mapping[str, float], **settings: bool) -> dict[str, Any]:
    """<unk>, <s>, </s>, the user-defined token <user>, the 256 bytes, and the pieces with their scores."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", "<user>", *byte_tokens, *pieces]
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, TokenType.USER_DEFINED]
    types += [TokenType.BYTE] * 256 + [TokenType.NORMAL] * len(pieces)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(kind) for kind in types],
        "tokenizer.ggml.scores": [0.0] * 260 + list(pieces.values()),
    } | {f"tokenizer.ggml.{name}": value for name, value in settings.items()}


def write_gguf(path: Path, metadata: Mapping[str, Any]) -> None:
    """Write a GGUF file without tensors, which llama.cpp takes for a vocabulary."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(512)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    for name, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_array(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

"""Small tokenizers in Hugging Face directories."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
N_TOKENS = len(SPECIAL) + 256 + 1


def byte_level(*, prefix_space: bool = False) -> tokenizers.Tokenizer:
    """SPECIAL, the 256 bytes, and <plain>, a token that no text becomes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*SPECIAL, *alphabet, "<plain>"])}
    pipeline = tokenizers.Tokenizer(models.BPE(vocab, []))
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    pipeline.decoder = decoders.ByteLevel()
    pipeline.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    return pipeline


def metaspace(scheme: str) -> tokenizers.Tokenizer:
    """<unk>, <s>, </s>, a mark for a space, a few letters and two words."""
    pieces = ["<unk>", "<s>", "</s>", "\u2581", "a", "b", "\u2581a", "ab"]
    merges = [("\u2581", "a"), ("a", "b")]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    pipeline = tokenizers.Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    pipeline.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    if scheme != "never":
        parts.append(decoders.Strip(" ", 1, 0))
    pipeline.decoder = decoders.Sequence(parts)
    pipeline.add_special_tokens(["<unk>", "<s>", "</s>"])
    return pipeline


def write_tokenizer(path: Path, pipeline: tokenizers.Tokenizer, **files: Any) -> Path:
    """A directory with a tokenizer.json and other files: JSON values, or text where the name says .jinja.

    In a file's name `__` stands for a slash, and the last `_` for the dot.
    """
    path.mkdir(parents=True, exist_ok=True)
    pipeline.save(str(path / "tokenizer.json"))
    for name, content in files.items():
        stem, _, suffix = name.replace("__", "/").rpartition("_")
        target = path / f"{stem}.{suffix}"
        target.parent.mkdir(exist_ok=True)
        text = content if suffix == "jinja" else json.dumps(content)
        target.write_text(text, encoding="utf-8")
    return path


def added(content: str, **flags: bool) -> dict[str, Any]:
    """An entry of "added_tokens_decoder"."""
    names = ("special", "lstrip", "rstrip", "normalized", "single_word")
    return {"content": content} | dict.fromkeys(names, False) | flags

"""The pre-tokenisers that GGUF files name in "tokenizer.ggml.pre".

A pre-tokeniser cuts text into words before byte-pair encoding; no merge crosses a cut. Each here is a list of regular
expressions, applied one after the other: a match becomes a word of its own, and so does the text between two matches.
The names are those of llama.cpp (src/llama-vocab.cpp), the expressions those of the tokenizers that it names.
"""

from typing import NamedTuple


class PreTokenizer(NamedTuple):
    """How text is cut into words, and what a GGUF file leaves unsaid about such a vocabulary."""

    splits: tuple[str, ...]  # regular expressions
    ignore_merges: bool = (
        False  # a word that is a token is taken whole, whatever the merges would make of it
    )
    add_bos: bool = False  # put a BOS token where the file does not say
    nfc: bool = False  # compose characters first


_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _cl100k_words(digits: str) -> str:
    """The words of OpenAI's cl100k vocabulary, with numbers cut as `digits` says."""
    return (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


_TEKKEN_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_DEFAULT = PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2_WORDS, r"\p{N}+", r"[0-9][0-9][0-9]"))
_GPT2 = PreTokenizer((_GPT2_WORDS,))
_DIGITS_GPT2 = PreTokenizer((r"\p{N}", _GPT2_WORDS))
_LLAMA3 = PreTokenizer((_cl100k_words(r"\p{N}{1,3}"),), ignore_merges=True, add_bos=True)
_CL100K = PreTokenizer((_cl100k_words(r"\p{N}{1,3}"),))
_QWEN2 = PreTokenizer((_cl100k_words(r"\p{N}"),), nfc=True)
_STABLELM2 = PreTokenizer((_cl100k_words(r"\p{N}"),))
_TEKKEN = PreTokenizer((_TEKKEN_WORDS,), ignore_merges=True, add_bos=True)

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "default": _DEFAULT,
    "gpt-2": _GPT2,
    "phi-2": _GPT2,
    "mpt": _GPT2,
    "olmo": _GPT2,
    "jais": _GPT2,
    "smollm": _DIGITS_GPT2,
    "starcoder": _DIGITS_GPT2,
    "refact": _DIGITS_GPT2,
    "command-r": _DIGITS_GPT2,
    "codeshell": _DIGITS_GPT2,
    "exaone": _DIGITS_GPT2,
    "minerva-7b": _DIGITS_GPT2,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "falcon3": _LLAMA3,
    "dbrx": _CL100K,
    "smaug-bpe": _CL100K,
    "chatglm-bpe": _CL100K,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "megrez": _QWEN2,
    "stablelm2": _STABLELM2,
    "tekken": _TEKKEN,
}

"""The pre-tokenisers that GGUF files name in "tokenizer.ggml.pre".

A pre-tokeniser cuts text into words before byte-pair encoding; no merge crosses a cut. Each here is a list of regular
expressions, applied one after the other: a match becomes a word of its own, and so does the text between two matches.
The names are those of llama.cpp (src/llama-vocab.cpp), the expressions those of the tokenizers that it names. A name
that is not here is refused: words cut otherwise are other tokens, with no other sign that something is wrong.
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


def _cased_words(suffix: str, digits: str) -> str:
    """Words of capitals followed by small letters, as OpenAI's o200k vocabulary has them.

    Args:
        suffix: what may end a word.
        digits: how numbers are cut.
    """
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    before = r"[^\r\n\p{L}\p{N}]?"
    return (
        f"{before}{upper}*{lower}+{suffix}|{before}{upper}+{lower}*{suffix}|{digits}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


_CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_ASCII_SIGNS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_DEEPSEEK3_WORDS = (
    _ASCII_SIGNS + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK_LETTERS = (
    "41-5a 61-7a b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376 377 37b-37d 37f 386 388-38a "
    "38c 38e-3a1 3a3-3f5 3f7-481 48a-52f 531-556 10a0-10c5 13a0-13f5 13f8-13fd 1c90-1cba 1cbd-1cbf "
    "1d00-1d2b 1d6b-1d77 1d79-1d9a 1e00-1f15 1f18-1f1d 1f20-1f45 1f48-1f4d 1f50-1f57 1f59 1f5b 1f5d "
    "1f5f-1f7d 1f80-1fb4 1fb6-1fbc 1fbe 1fc2-1fc4 1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec 1ff2-1ff4 "
    "1ff6-1ffc 2102 2107 210a-2113 2115 2119-211d 2124 2126 2128 212a-212d 212f-2134 2139 213c-213f "
    "2145-2149 214e 2183 2184 2c00-2c7b 2c7e-2ce4 2ceb-2cee 2cf2 2cf3 a640-a66d a680-a69b a722-a76f "
    "a771-a787 a78b-a78e ab70-abbf fb00-fb06 fb13-fb17 ff21-ff3a ff41-ff5a 10400-1044f 104b0-104d3 "
    "104d8-104fb 10c80-10cb2 10cc0-10cf2 118a0-118df 1e900-1e943"
)
"""Code points of letters with case, as DeepSeek's first tokenizer lists them: hexadecimal, single or ranges."""


def _class_of(ranges: str) -> str:
    """The regular expression of one of many code points."""
    ends = (part.split("-") for part in ranges.split())
    return "[" + "".join("-".join(chr(int(end, 16)) for end in part) for part in ends) + "]"


_CJK_AND_HANGUL = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"

_DEFAULT = PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2_WORDS, r"\p{N}+", r"[0-9][0-9][0-9]"))
_GPT2 = PreTokenizer((_GPT2_WORDS,))
_GPT_NEOX = PreTokenizer((_GPT2_WORDS,), nfc=True)
_DIGITS_GPT2 = PreTokenizer((r"\p{N}", _GPT2_WORDS))
_COHERE = PreTokenizer((r"\p{N}", _GPT2_WORDS), nfc=True)
_LLAMA3 = PreTokenizer((_cl100k_words(r"\p{N}{1,3}"),), ignore_merges=True, add_bos=True)
_CL100K = PreTokenizer((_cl100k_words(r"\p{N}{1,3}"),))
_QWEN2 = PreTokenizer((_cl100k_words(r"\p{N}"),), nfc=True)
_STABLELM2 = PreTokenizer((_cl100k_words(r"\p{N}"),))
_QWEN35 = PreTokenizer(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
        r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    nfc=True,
)
_SEED = PreTokenizer(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
    )
)
_TEKKEN = PreTokenizer((_cased_words("", r"\p{N}"),), ignore_merges=True, add_bos=True)
_GPT4O = PreTokenizer((_cased_words("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", r"\p{N}{1,3}"),))
_FALCON = PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2_WORDS, r"\p{N}+", r"[0-9][0-9][0-9]"))
_DEEPSEEK3 = PreTokenizer((r"\p{N}{1,3}", _CJK, _DEEPSEEK3_WORDS))
_DEEPSEEK = PreTokenizer(
    (
        r"[\r\n]",
        rf"\s?{_class_of(_DEEPSEEK_LETTERS)}+",
        "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
        r"\s+$",
        _CJK_AND_HANGUL,
        r"\p{N}",
    )
)
_DEEPSEEK_CODER = PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_AND_HANGUL, r"\p{N}"))

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "default": _DEFAULT,
    "gpt-2": _GPT2,
    "phi-2": _GPT2,
    "mpt": _GPT_NEOX,
    "olmo": _GPT_NEOX,
    "jais": _GPT2,
    "exaone4": _GPT2,
    "trillion": _GPT2,
    "granite-docling": _GPT2,
    "smollm": _DIGITS_GPT2,
    "starcoder": _DIGITS_GPT2,
    "refact": _DIGITS_GPT2,
    "command-r": _COHERE,
    "codeshell": _DIGITS_GPT2,
    "exaone": _DIGITS_GPT2,
    "minerva-7b": _DIGITS_GPT2,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "falcon3": _LLAMA3,
    "falcon-h1": _LLAMA3,
    "pixtral": _LLAMA3,
    "lfm2": _LLAMA3,
    "midm-2.0": _LLAMA3,
    "dbrx": _CL100K,
    "smaug-bpe": _CL100K,
    "chatglm-bpe": _CL100K,
    "glm4": _CL100K,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "kormo": _QWEN2,
    "megrez": _QWEN2,
    "qwen35": _QWEN35,
    "stablelm2": _STABLELM2,
    "seed-coder": _SEED,
    "tekken": _TEKKEN,
    "gpt-4o": _GPT4O,
    "llama4": _GPT4O,
    "kanana2": _GPT4O,
    "falcon": _FALCON,
    "deepseek-llm": _DEEPSEEK,
    "deepseek-coder": _DEEPSEEK_CODER,
    "deepseek-v3": _DEEPSEEK3,
}

"""Control tokens of a GGUF file, which its token types may leave out.

A file's types and ids are meant to say which tokens are control tokens, and which of those end a reply. Files in
circulation do not: many type an end of turn as a normal token, or name </s> as the end of sequence beside a chat
template that ends turns with <|im_end|>. So tokens are known by their text too.

Source of the texts: llama.cpp, src/llama-vocab.cpp.
"""

import re
from collections.abc import Callable, Container, Mapping, Sequence
from enum import IntEnum


class TokenType(IntEnum):
    """The entries of "tokenizer.ggml.token_type"."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "</s>",
    "<eos>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "[e~[",
    "<turn|>",
    "<|tool_response>",
    "<end_of_utterance>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
)
"""Texts of tokens that end a reply."""

FILE_ENDS = (
    ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    ("<|file_sep|>",),
)
"""Texts of tokens that end the code of a file; of each group the first that a vocabulary has."""

_LOOKS_LIKE_CONTROL = re.compile(r"<\|\S+\|>|<\uff5c\S+\uff5c>")
_MAY_BE_CONTROL = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
_NOT_FINAL = (
    (
        "<|end|>",
        ({"<|return|>", "<|call|>"}, {"<|flush|>", "<|call|>"}, {"<|flush|>", "<|calls|>"}),
    ),
    ("</s>", ({"<|tool_response>"},)),
)
"""Ends that end no reply in a vocabulary that has one of these sets."""


def find_ends(vocab: Mapping[str, int]) -> list[int]:
    """Ids of the tokens whose text says that they end a reply."""
    ends = [text for text in ENDS if text in vocab]
    for text, others in _NOT_FINAL:
        if text in ends and any(other <= vocab.keys() for other in others):
            ends.remove(text)
    for group in FILE_ENDS:
        ends += [text for text in group if text in vocab][:1]
    return [vocab[text] for text in ends]


def correct_types(
    tokens: Sequence[str],
    types: Sequence[int],
    named: Container[int],
    ends: Container[int],
    template: str,
    is_merged: Callable[[str], bool],
) -> list[int]:
    """Token types, with control tokens that the file types otherwise as such.

    Args:
        tokens: text of each token.
        types: type of each.
        named: ids that the file gives to the beginning and the end of a sequence.
        ends: ids of the tokens whose text says that they end a reply.
        template: the chat template.
        is_merged: tells whether the merges can make a token out of plain text.

    Returns:
        CONTROL for `ends`, and for NORMAL tokens that plain text never becomes, if they are named or look like control
        tokens: `<|name|>`, or `<name>` and `[name]` where the template writes it.
    """
    corrected = list(types)
    for token_id, (token, token_type) in enumerate(zip(tokens, types, strict=True)):
        if token_id in ends and token_type != TokenType.UNKNOWN:
            corrected[token_id] = TokenType.CONTROL
        elif token_type == TokenType.NORMAL:
            is_control = (
                token_id in named
                or _LOOKS_LIKE_CONTROL.fullmatch(token)
                or (_MAY_BE_CONTROL.fullmatch(token) and token in template)
            )
            if is_control and not is_merged(token):
                corrected[token_id] = TokenType.CONTROL
    return corrected

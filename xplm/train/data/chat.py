"""Conversations as examples: the model learns to say the assistant's words, and nothing else.

A conversation is rendered with the model's chat template and encoded as it will be at inference. The tokens of reply i
are found by encoding its beginnings too:

    all messages                        <user> a <assistant> b </s> <user> c <assistant> d </s>
    up to the reply, reply opened       <user> a <assistant>
    up to and with the reply            <user> a <assistant> b </s>

What the third adds to the second is scored, up to and with the token that ends the turn, so that no template needs to
be understood. A template that rewrites earlier turns as the conversation goes on is refused.

Data are records {"messages": [...]}, or texts "User: ... Assistant: ... </s>", with one or more turns.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xplm.errors import DataError, TemplateError
from xplm.text.chat_encoder import ChatEncoder
from xplm.text.tokenizer import Tokenizer
from xplm.train.data.examples import Example
from xplm.train.data.sources import Progress, Record, read_records, unseen, without_end

_SPEAKER = re.compile(r"(?:^|(?<=\s))(User|Assistant):")


def read_chats(path: Path, progress: Progress = unseen) -> Iterator[list[dict[str, Any]]]:
    """The conversations at a path.

    Args:
        path: a JSON or JSON-lines file, a text file with a conversation a line, or a folder of these.
        progress: told of the bytes that are read.

    Yields:
        Messages {"role": ..., "content": text, ...}, each conversation with at least one reply in it.

    Raises:
        DataError: a file cannot be read, or a record is not a conversation.
    """
    for record in read_records(path, progress):
        messages = record.value
        if isinstance(messages, dict):
            messages = messages.get("messages")
        elif isinstance(messages, str):
            messages = _parse_turns(messages)
        _check(messages, record)
        yield messages


def encode_chat(encoder: ChatEncoder, messages: Sequence[dict[str, Any]]) -> Example:
    """One conversation as an example.

    Args:
        encoder: the model's chat format.
        messages: the turns; what follows the last reply is left out.

    Returns:
        The example, up to the end of the last reply; its targets are the tokens of the replies.

    Raises:
        TemplateError: the template fails, or changes earlier turns when later ones are added.
        RequestError: a message is not valid Unicode.
    """
    replies = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    ids = encoder.encode(messages[: replies[-1] + 1], add_generation_prompt=False)
    scored = [False] * len(ids)
    for i in replies:
        opened = encoder.encode(messages[:i], add_generation_prompt=True)
        said = encoder.encode(messages[: i + 1], add_generation_prompt=False)
        begin = _common_length(opened, said)
        end = _turn_end(said, begin, encoder.tokenizer)
        if ids[:end] != said[:end]:
            raise TemplateError(
                "training on a chat needs a template that leaves earlier turns as they are, "
                f"and this one changes what comes before the end of message {i + 1}: use one reply a conversation"
            )
        scored[begin:end] = [True] * (end - begin)
    return Example.from_ids(ids[:end], scored=scored[:end])


def encode_text(tokenizer: Tokenizer, text: str) -> Example:
    """One text and its end as an example, all of it scored.

    Raises:
        RequestError: it is not valid Unicode.
    """
    ids = tokenizer.encode_long(text, add_special_tokens=False, allow_special=False)
    end = np.asarray(tokenizer.eos_token_ids[:1], ids.dtype)
    return Example.from_ids(np.concatenate([ids, end]))


def _parse_turns(text: str) -> list[dict[str, str]]:
    """The turns of "User: ... Assistant: ... </s>"; none if the text begins otherwise."""
    before, *parts = _SPEAKER.split(text)
    if before.strip():
        return []
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": who.lower(), "content": without_end(said).strip()} for who, said in pairs]


def _check(messages: Any, record: Record) -> None:
    is_chat = isinstance(messages, list) and all(
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in messages
    )
    if not is_chat or all(message["role"] != "assistant" for message in messages):
        raise DataError(
            f'{record.place}, must be {{"messages": [{{"role": ..., "content": ...}}, ...]}} or '
            f'"User: ... Assistant: ...", with a reply of the assistant; got {record.value!r:.80}'
        )


def _common_length(a: Sequence[int], b: Sequence[int]) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def _turn_end(ids: Sequence[int], begin: int, tokenizer: Tokenizer) -> int:
    """Behind the last token that ends a text; templates may put a line break after it."""
    ends = [i + 1 for i in range(begin, len(ids)) if ids[i] in tokenizer.eos_token_ids]
    return ends[-1] if ends else len(ids)

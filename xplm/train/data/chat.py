"""Conversations as examples: the model learns to say the assistant's words, and nothing else.

A conversation is rendered with the model's chat template and encoded as it will be at inference. The tokens of reply i
are found by encoding its beginnings too:

    all messages                        <user> a <assistant> b </s> <user> c <assistant> d </s>
    up to the reply, reply opened       <user> a <assistant>
    up to and with the reply            <user> a <assistant> b </s>

What the third adds to the second is scored, up to and with the token that ends the turn, so that no template needs to
be understood. A template that rewrites earlier turns as the conversation goes on is refused.

`xplm.train.data.records` says which data are conversations.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from xplm.errors import TemplateError
from xplm.progress import OnProgress, unseen
from xplm.text.chat_encoder import ChatEncoder
from xplm.train.data.examples import Example
from xplm.train.data.records import Conversation, record_conversation
from xplm.train.data.sources import read_records


def read_chats(path: Path, progress: OnProgress = unseen) -> Iterator[Conversation]:
    """The conversations at a path.

    Args:
        path: a JSON or JSON-lines file, a text file with a conversation a line, or a folder of these.
        progress: told of the bytes that are read.

    Yields:
        Each conversation, with at least one reply in it to learn.

    Raises:
        DataError: a file cannot be read, or a record is not a conversation.
    """
    for record in read_records(path, progress):
        yield record_conversation(record)


def encode_chat(encoder: ChatEncoder, chat: Conversation) -> Example:
    """One conversation as an example.

    Args:
        encoder: the model's chat format.
        chat: the turns; what follows the last reply to learn is left out.

    Returns:
        The example, up to the end of that reply; its targets are the tokens of the replies to learn.

    Raises:
        TemplateError: the template fails, does not show tools or their calls, or changes earlier turns when later ones
            are added.
        RequestError: a message is not valid Unicode.
    """
    replies = [i for i, is_scored in enumerate(chat.scored) if is_scored]
    messages = chat.messages[: replies[-1] + 1]
    variables: dict[str, Any] = {"tools": chat.tools} if chat.tools else {}

    def encode(turns: Sequence[dict[str, Any]], *, opens_reply: bool) -> list[int]:
        return encoder.encode(turns, add_generation_prompt=opens_reply, **variables)

    ids = encode(messages, opens_reply=False)
    _require_shown(encoder, messages, variables, ids)
    scored = [False] * len(ids)
    for i in replies:
        opened = encode(messages[:i], opens_reply=True)
        said = encode(messages[: i + 1], opens_reply=False)
        begin = _common_length(opened, said)
        end = _turn_end(said, begin, encoder)
        if ids[:end] != said[:end]:
            raise TemplateError(
                "training on a chat needs a template that leaves earlier turns as they are, "
                f"and this one changes what comes before the end of message {i + 1}: use one reply a conversation"
            )
        scored[begin:end] = [True] * (end - begin)
    return Example.from_ids(ids[:end], scored=scored[:end])


def _require_shown(
    encoder: ChatEncoder,
    messages: Sequence[dict[str, Any]],
    variables: dict[str, Any],
    ids: Sequence[int],
) -> None:
    """Refuse a template that gives a chat the same ids without its tools, or without its tool calls."""
    without_calls = [{k: v for k, v in m.items() if k != "tool_calls"} for m in messages]
    trials: dict[str, tuple[Sequence[dict[str, Any]], dict[str, Any]]] = {}
    if variables:
        trials["tools"] = (messages, {})
    if any(message.get("tool_calls") for message in messages):
        trials["tool_calls"] = (without_calls, variables)
    for name, (turns, given) in trials.items():
        try:
            is_shown = encoder.encode(turns, add_generation_prompt=False, **given) != ids
        except TemplateError:  # it cannot do without
            is_shown = True
        if not is_shown:
            raise TemplateError(
                f"the template must show what a chat holds, and this one leaves out its {name}: "
                "take another model, or chats without them"
            )


def _common_length(a: Sequence[int], b: Sequence[int]) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def _turn_end(ids: Sequence[int], begin: int, encoder: ChatEncoder) -> int:
    """Behind the last token that ends a turn or a text; templates may put a line break after it."""
    stops = {*encoder.turn_end_ids, *encoder.tokenizer.eos_token_ids}
    ends = [i + 1 for i in range(begin, len(ids)) if ids[i] in stops]
    return ends[-1] if ends else len(ids)

"""From a path to a data set."""

from collections.abc import Callable
from pathlib import Path

from xplm.errors import DataError, RequestError, TemplateError
from xplm.text.chat_encoder import ChatEncoder
from xplm.text.tokenizer import Tokenizer
from xplm.train.data.bins import open_tokens
from xplm.train.data.chat import encode_chat, encode_text, read_chats
from xplm.train.data.dataset import Dataset
from xplm.train.data.examples import Example, make_examples
from xplm.train.data.sources import Progress, read_records, record_text, unseen
from xplm.train.data.windows import Windows, split


def open_dataset(
    path: Path,
    tokenizer: Tokenizer,
    *,
    kind: str,
    context: int,
    batch_size: int,
    n_micro: int,
    seed: int,
    held_out: float,
    packed: bool,
    cache: Path,
    progress: Progress = unseen,
) -> Dataset:
    """Read, encode and cut training data.

    Args:
        path: a file or folder of text, JSON or JSON lines.
        tokenizer: the model's; with a chat template for "chat".
        kind: "text": windows of all the text; "lines": each line or record a sequence of its own; "chat":
            conversations, the assistant's words scored.
        context: tokens to a sequence, at most.
        batch_size: sequences to a forward pass.
        n_micro: forward passes to a step.
        seed: of the order.
        held_out: share at the end that is for validation, from 0.
        packed: whether several lines or conversations share a sequence.
        cache: folder for the tokens of "text".
        progress: told of the bytes done.

    Returns:
        The data set.

    Raises:
        DataError: the data cannot be read, are malformed, do not fit the chat template, or are too little.
        TemplateError: the chat template is missing.
    """
    if kind == "text":
        train, rest = split(open_tokens(path, tokenizer, cache, progress), held_out)
        return Windows(train, rest, context, batch_size, n_micro, seed)

    encode = _ENCODERS.get(kind)
    if encode is None:
        raise DataError(f"data are of kind text | {' | '.join(_ENCODERS)}; got {kind!r}")
    return make_examples(
        encode(path, tokenizer, progress),
        held_out=held_out,
        context=context,
        batch_size=batch_size,
        n_micro=n_micro,
        seed=seed,
        packed=packed,
    )


def _encode_lines(path: Path, tokenizer: Tokenizer, progress: Progress) -> list[Example]:
    records = read_records(path, progress)
    return [encode_text(tokenizer, record_text(record)) for record in records]


def _encode_chats(path: Path, tokenizer: Tokenizer, progress: Progress) -> list[Example]:
    encoder = ChatEncoder(tokenizer)
    examples = []
    for number, messages in enumerate(read_chats(path, progress), 1):
        try:
            examples.append(encode_chat(encoder, messages))
        except (TemplateError, RequestError) as cause:
            raise DataError(
                f"every chat must be one that the model's template takes; chat {number} of {path}: {cause}"
            ) from cause
    return examples


_ENCODERS: dict[str, Callable[[Path, Tokenizer, Progress], list[Example]]] = {
    "lines": _encode_lines,
    "chat": _encode_chats,
}

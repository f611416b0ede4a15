"""From a path to a data set."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from xplm.errors import DataError, RequestError, TemplateError
from xplm.progress import OnProgress, unseen
from xplm.text.chat_encoder import ChatEncoder
from xplm.text.documents import encode_texts
from xplm.text.tokenizer import Tokenizer
from xplm.text.unknown import count_left_out, leaves_out, unknown_id
from xplm.train.data.bins import CHECKED_IDS, open_tokens
from xplm.train.data.chat import encode_chat, read_chats
from xplm.train.data.dataset import DataReport, Dataset
from xplm.train.data.digest import data_digest
from xplm.train.data.examples import Example, make_examples
from xplm.train.data.records import record_text
from xplm.train.data.sources import read_records, read_texts
from xplm.train.data.windows import Windows, split

KINDS = ("text", "lines", "chat")


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
    digest: str | None = None,
    progress: OnProgress = unseen,
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
        digest: the data's `data_digest`, where it is known.
        progress: told of the bytes done.

    Returns:
        The data set.

    Raises:
        DataError: the data cannot be read, are malformed, do not fit the chat template, or are too little.
        TemplateError: the chat template is missing.
    """
    if kind not in KINDS:
        raise DataError(f"data are of kind {' | '.join(KINDS)}; got {kind!r}")
    if kind == "text":
        digest = digest or data_digest(path, progress)
        tokens = open_tokens(path, tokenizer, cache, digest, progress)
        report = _report(path, tokenizer, tokens.chunks(CHECKED_IDS), kind)
        train, rest = split(tokens, held_out)
        return Windows(train, rest, context, batch_size, n_micro, seed, report)

    encode = _encode_chats if kind == "chat" else _encode_lines
    examples = encode(path, tokenizer, progress)
    return make_examples(
        examples,
        held_out=held_out,
        context=context,
        batch_size=batch_size,
        n_micro=n_micro,
        seed=seed,
        packed=packed,
        report=_report(path, tokenizer, (example.ids for example in examples), kind),
    )


def _report(path: Path, tokenizer: Tokenizer, ids: Iterable[np.ndarray], kind: str) -> DataReport:
    """What the tokenizer makes of the data."""
    unknown = unknown_id(tokenizer)
    n_tokens = n_unknown = 0
    for part in ids:
        n_tokens += len(part)
        n_unknown += 0 if unknown is None else int(np.count_nonzero(part == unknown))
    texts = read_texts([path], of_chats=kind == "chat") if leaves_out(tokenizer) else ()
    lost = count_left_out(tokenizer, texts)
    return DataReport(n_tokens=n_tokens, n_unknown=n_unknown, n_lost_chars=lost)


def _encode_lines(path: Path, tokenizer: Tokenizer, progress: OnProgress) -> list[Example]:
    texts = (record_text(record) for record in read_records(path, progress))
    encoded = encode_texts(tokenizer, filter(None, texts))
    return [Example.from_ids(ids) for ids in encoded]


def _encode_chats(path: Path, tokenizer: Tokenizer, progress: OnProgress) -> list[Example]:
    encoder = ChatEncoder(tokenizer)
    examples = []
    for number, chat in enumerate(read_chats(path, progress), 1):
        try:
            examples.append(encode_chat(encoder, chat))
        except (TemplateError, RequestError) as cause:
            raise DataError(
                f"every chat must be one that the model's template takes; chat {number} of {path}: {cause}"
            ) from cause
    return examples

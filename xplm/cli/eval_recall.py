"""`xplm eval recall`: how many of the answers that a model was tuned on it gives back word for word, greedily.

A model is asked as it was trained: with the whole conversation up to its last answer.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from xplm.cli.flags import ModelFlags, takes_flags
from xplm.cli.output import Output, OutputFlags
from xplm.errors import DataError
from xplm.text.chat_encoder import ChatEncoder
from xplm.train.data.chat import read_chats
from xplm.train.data.records import Conversation

ROOM = 8
"""Tokens that a reply may have beyond one a byte."""


@takes_flags
def recall(
    model: ModelFlags,
    output: OutputFlags,
    data: Annotated[Path, typer.Option(metavar="FILE", help="The conversations, as JSON lines.")],
    least: Annotated[int, typer.Option(min=0, help="Recalled answers to ask for.")] = 0,
) -> None:
    """Count the last answers of conversations that a model gives back word for word.

    Exit code 1 where fewer than --least were recalled.

    Example: xplm eval recall --model runs/facts-chat --data chats.jsonl
    """
    chats = list(read_chats(data))
    if not chats:
        raise DataError(f"{data} must hold at least one chat; got none; give another file")
    out = Output(output)
    lm = model.load(out)
    encoder = ChatEncoder(lm.tokenizer, lm.engine.context)
    recalled = 0
    for chat in chats:
        asked, answer = split_chat(chat)
        variables: dict[str, Any] = {"tools": chat.tools} if chat.tools else {}
        ids = encoder.encode(asked, **variables)
        room = len(answer.encode()) + ROOM
        given = lm.generate(ids, max_new_tokens=room, stop_token_ids=encoder.turn_end_ids).text
        is_same = given.split() == answer.split()
        recalled += is_same
        if not is_same:
            question = asked[-1]["content"] if asked else ""
            out.line(f"{question}\n  expected: {answer}\n  got:      {given}")
    out.line(f"{recalled} of {len(chats)} answers recalled word for word")
    out.result({"recalled": recalled, "asked": len(chats)})
    if recalled < least:
        raise typer.Exit(1)


def split_chat(chat: Conversation) -> tuple[list[dict[str, Any]], str]:
    """The turns before the last answer to learn, and that answer's text, empty beside tool calls."""
    place = max(i for i, is_scored in enumerate(chat.scored) if is_scored)
    return chat.messages[:place], chat.messages[place]["content"] or ""

"""`xplm eval recall`: how many of the answers that a model was tuned on it gives back word for word, greedily."""

from pathlib import Path
from typing import Annotated

import typer

from xplm.cli.flags import ModelFlags, takes_flags
from xplm.cli.output import Output, OutputFlags
from xplm.errors import DataError
from xplm.train.data.chat import read_chats

ROOM = 8
"""Tokens that a reply may have beyond one a character."""


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
    recalled = 0
    for messages in chats:
        question, answer = messages[-2]["content"], messages[-1]["content"]
        given = lm.chat().send(question, max_new_tokens=len(answer) + ROOM).text
        is_same = given.split() == answer.split()
        recalled += is_same
        if not is_same:
            out.line(f"{question}\n  expected: {answer}\n  got:      {given}")
    out.line(f"{recalled} of {len(chats)} answers recalled word for word")
    out.result({"recalled": recalled, "asked": len(chats)})
    if recalled < least:
        raise typer.Exit(1)

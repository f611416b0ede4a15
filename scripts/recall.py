"""How many of the answers that a model was tuned on it gives back word for word, greedily.

    python scripts/recall.py runs/facts-chat scripts/recipes/data/facts-chat.jsonl [--least N] [--json]

Exit codes: 0 done, 1 fewer than --least were recalled, 2 bad input.
"""

import argparse
import json
import sys
from pathlib import Path

import xplm
from xplm.train.data.chat import read_chats


def main() -> int:
    """Ask every question, compare every answer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a directory that `xplm train` wrote")
    parser.add_argument("data", type=Path, help="the conversations it was tuned on")
    parser.add_argument("--least", type=int, default=0, help="recalled answers to ask for")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    try:
        lm = xplm.load(arguments.model)
        chats = list(read_chats(arguments.data))
    except xplm.XplmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    recalled = 0
    for messages in chats:
        question, answer = messages[-2]["content"], messages[-1]["content"]
        given = lm.chat().send(question, max_new_tokens=len(answer) + 8).text
        is_same = given.split() == answer.split()
        recalled += is_same
        if not is_same and not arguments.json:
            print(f"{question}\n  expected: {answer}\n  got:      {given}")
    if arguments.json:
        print(json.dumps({"recalled": recalled, "asked": len(chats)}))
    else:
        print(f"{recalled} of {len(chats)} answers recalled word for word")
    return 0 if recalled >= arguments.least else 1


if __name__ == "__main__":
    sys.exit(main())

"""Judges of `xplm serve` that were written for others: llama.cpp's and vLLM's tests, and JSON-Schema-Test-Suite.

    python scripts/judge_serve.py llama.cpp --suite CHECKOUT
    python scripts/judge_serve.py vllm --suite CHECKOUT
    python scripts/judge_serve.py json-schema --suite CHECKOUT

Each test that does not pass must be in the judge's list, with the reason; the lists are scripts/judges/*.txt. Needs
the extra "dev"; llama.cpp's tests also need requests, filelock and wget, and vLLM's PyTorch. Exit codes: 0 all is as
listed, 1 it is not, 2 the tests could not be run.
"""

import argparse
import sys
from pathlib import Path

from bench.run import add_where_flags, guarded, where_flags
from judges import json_schema, llama_cpp, vllm
from judges.listed import as_text, compare, read_list

JUDGES = {"llama.cpp": llama_cpp.run, "vllm": vllm.run, "json-schema": json_schema.run}
LISTS = Path(__file__).resolve().parent / "judges"


def main() -> int:
    """Run a judge's tests, and hold what they find against its list."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("judge", choices=JUDGES)
    parser.add_argument("--suite", type=Path, required=True, help="a checkout of its repository")
    parser.add_argument("--model", default="smollm2-135m-instruct:q4_1")
    parser.add_argument("--only", metavar="BEGINNING", help="of the names of the tests to run")
    add_where_flags(parser)
    plan = parser.parse_args()
    entries = read_list(LISTS / f"{plan.judge}.txt")
    run = JUDGES[plan.judge]
    found = run(plan.suite, plan.model, where_flags(plan), entries, plan.only)
    if plan.only:
        entries = [entry for entry in entries if any(map(entry.covers, found))]
    verdict = compare(found, entries)
    print(as_text(verdict))
    return 0 if verdict.is_as_listed else 1


if __name__ == "__main__":
    sys.exit(guarded(main))

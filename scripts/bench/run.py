"""The flags of a benchmark, the beginning of a run and its end: the same for every script."""

import argparse
import json
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.processes import FAILED, kill_all
from bench.turns import Log
from bench.verdicts import Row, table
from xplm.errors import XplmError

INTERRUPTED = 130


def add_run_flags(
    parser: argparse.ArgumentParser, parts: Sequence[str], default: Sequence[str], out: str
) -> None:
    """What to measure, how often, and where to."""
    names = " ".join(default)
    parser.add_argument(
        "--only", nargs="+", choices=parts, default=default, metavar="PART", help=names
    )
    parser.add_argument("--threads", type=int, default=2, help="of every system")
    parser.add_argument("--cycles", type=int, default=5, help="of A B C C B A, in each part")
    parser.add_argument("--seed", type=int, help="if not given, drawn, and kept with the run")
    parser.add_argument("--out", type=Path, default=Path(out), help="a directory, taken up again")


def add_where_flags(parser: argparse.ArgumentParser) -> None:
    """Where xplm computes."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--backend", help="an array library; if not given, numpy or cupy")


def where_flags(plan: argparse.Namespace) -> list[str]:
    """The same, for a command of xplm."""
    return ["--device", plan.device, *(["--backend", plan.backend] if plan.backend else [])]


def open_log(plan: argparse.Namespace, settings: dict[str, Any]) -> tuple[Log, int]:
    """The run's measurements so far, and its seed."""
    log = Log(plan.out / "turns.jsonl", settings)
    known = log.note("seed")
    if known is None:
        known = secrets.randbelow(2**32) if plan.seed is None else plan.seed
        log.add({"seed": known})
    if plan.seed not in (None, known):
        print(
            f"error: a run has one seed; that of {plan.out} is {known}; got {plan.seed}; name another place",
            file=sys.stderr,
        )
        sys.exit(FAILED)
    return log, known


def finish(out: Path, texts: Sequence[str], rows: Sequence[Row]) -> int:
    """Print and write what a run came to; return its exit code."""
    page = "\n\n".join(text for text in (*texts, table(rows)) if text) + "\n"
    print(page)
    (out / "table.md").write_text(page, encoding="utf-8")
    figures = [
        {key: None if value != value else value for key, value in row._asdict().items()}
        | {"is_met": row.is_met}
        for row in rows
    ]
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0 if all(row.is_met for row in rows) else 1


def guarded(main: Callable[[], int]) -> int:
    """Run a script; what ends it is said in one line."""
    try:
        return main()
    except XplmError as error:
        kill_all()
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        kill_all()
        print(
            "interrupted; a run that keeps its measurements goes on with the same command",
            file=sys.stderr,
        )
        return INTERRUPTED

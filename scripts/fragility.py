"""Are the tokens that flip the ones that were marked?   python scripts/fragility.py --text book.txt --tokens 5000

Greedy replies to prompts cut from texts are judged by `xplm.numerics.fragility`, as `xplm generate --fragility` judges
them. Then every other configuration reads the same tokens: it flips one if, given those before it, it would choose
another. Two shares come out: how many of the flips were marked fragile, and how many of all tokens are.

Each batch is a line of --file, so that a run that was cut off goes on, given the same flags. Exit codes: 0 done, 1 a
share misses its limit, 2 bad input, 130 interrupted.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import xplm
from xplm.cli import experiment
from xplm.cli.input import read_text
from xplm.cli.parity import parse_side
from xplm.cli.places import home
from xplm.errors import RequestError
from xplm.numerics.fragility import AGAINST, QUANTILE, compute_margins, measure_fragility

LEAST_MARKED = 0.95  # of the flips
MOST_FRAGILE = 0.10  # of the tokens
PROMPT_TOKENS = (8, 48)
SETTINGS = ("model", "other", "against", "reply", "batch", "seed")
"""Flags that all batches of a file share."""


def main() -> int:
    """Measure what is not in the file yet, and print the shares."""
    given = read_flags()
    sides = {side: parse_side(side) for side in given.other}
    lm = xplm.load(given.model, home=home())
    others = {
        side: xplm.load(given.model, backend=backend, policy=policy, home=home())
        for side, (backend, policy) in sides.items()
    }
    texts = [lm.tokenizer.encode(read_text(path)) for path in given.text]

    given.file.touch()
    batches = [json.loads(line) for line in given.file.read_text().splitlines()]
    prompts = draw_prompts(texts, given.seed)
    for batch in batches:
        own = [next(prompts) for _ in batch["prompts"]]
        if batch["settings"] != settings(given) or batch["prompts"] != own:
            raise RequestError(f"{given.file} holds another run; give another --file")
    while count_tokens(batches) < given.tokens:
        began = time.perf_counter()
        batch = measure_batch(lm, others, [next(prompts) for _ in range(given.batch)], given)
        with given.file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(batch) + "\n")
        batches.append(batch)
        seconds = time.perf_counter() - began
        print(f"{count_tokens(batches)} tokens, {seconds:.0f} s a batch", file=sys.stderr)

    result = summarise(batches) | {"model": given.model, "against": given.against}
    print(json.dumps(result) if given.json else table(result))
    return 0 if result["is_met"] else 1


def read_flags() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", required=True, action="append", help="may be repeated")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--other", nargs="*", default=["numpy:bf16", "numpy:fp16", "torch:fp32"])
    parser.add_argument("--against", default=AGAINST, help="the policy that is guarded against")
    parser.add_argument("--tokens", type=int, default=5000, help="at least so many are judged")
    parser.add_argument("--reply", type=int, default=64, help="tokens to a reply, at most")
    parser.add_argument("--batch", type=int, default=16, help="prompts that run together")
    parser.add_argument("--seed", type=int, default=0, help="of prompts and perturbations")
    parser.add_argument("--file", type=Path, default=Path("fragility.jsonl"))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def settings(given: argparse.Namespace) -> dict[str, Any]:
    """What a batch depends on beside its prompts."""
    return {name: getattr(given, name) for name in SETTINGS}


def draw_prompts(texts: Sequence[Sequence[int]], seed: int) -> Iterator[list[int]]:
    """Prompts without end, cut anywhere out of each text in turn."""
    rng = np.random.default_rng(seed)
    while True:
        for text in texts:
            length = min(int(rng.integers(*PROMPT_TOKENS)), len(text))
            begin = int(rng.integers(0, len(text) - length + 1))
            yield list(text[begin : begin + length])


def measure_batch(
    lm: xplm.LanguageModel,
    others: dict[str, xplm.LanguageModel],
    prompts: list[list[int]],
    given: argparse.Namespace,
) -> dict[str, Any]:
    """Replies to some prompts, their judgements, and the margins that the others give the same tokens."""
    replies = [r.token_ids for r in lm.generate(prompts, max_new_tokens=given.reply)]
    judged = measure_fragility(lm.engine, prompts, replies, given.against, seed=given.seed)
    batch = {
        "settings": settings(given),
        "prompts": prompts,
        "replies": replies,
        "margin": [[token.margin for token in tokens] for tokens in judged],
        "bound": [[token.bound for token in tokens] for tokens in judged],
        "others": {},
    }
    for side, other in others.items():
        found = compute_margins(other.engine, prompts, replies)
        batch["others"][side] = {
            "margin": [margins.margin.tolist() for margins in found],
            "rival": [margins.rival.tolist() for margins in found],
        }
    return batch


def count_tokens(batches: Sequence[dict[str, Any]]) -> int:
    """Tokens of all replies so far."""
    return sum(len(reply) for batch in batches for reply in batch["replies"])


def joined(parts: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    """One number a token, of all replies of all batches."""
    return np.asarray([number for part in parts for row in part[name] for number in row])


def summarise(batches: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares of the flips and of the tokens, and whether both are within their limits."""
    chosen, margin, bound = (joined(batches, name) for name in ("replies", "margin", "bound"))
    is_fragile = ~(margin > bound)
    sides, n_flips, n_marked = {}, 0, 0
    for side in batches[0]["others"]:
        own = [batch["others"][side] for batch in batches]
        there, rival = joined(own, "margin"), joined(own, "rival")
        is_flip = (there < 0.0) | ((there == 0.0) & (rival < chosen))  # a tie takes the lower id
        moved = (there - margin)[bound > 0.0] * QUANTILE / bound[bound > 0.0]
        sides[side] = {
            "flips": int(is_flip.sum()),
            "marked": int((is_flip & is_fragile).sum()),
            "moved": float(np.sqrt(np.mean((there - margin) ** 2))),
            "moved_over_noise": float(np.sqrt(np.mean(moved**2))),
        }
        n_flips += sides[side]["flips"]
        n_marked += sides[side]["marked"]
    share = n_marked / n_flips if n_flips else 1.0
    fragile = float(is_fragile.mean())
    return {
        "tokens": len(chosen),
        "fragile_share": fragile,
        "flips": n_flips,
        "marked_share": share,
        "is_met": share >= LEAST_MARKED and fragile <= MOST_FRAGILE,
        "others": sides,
    }


def table(result: dict[str, Any]) -> str:
    """The result in lines."""
    lines = [f"{'':14}{'flips':>7}{'marked':>8}{'margins moved by':>18}{'over noise':>12}"]
    for side, found in result["others"].items():
        lines.append(
            f"{side:14}{found['flips']:7}{found['marked']:8}{found['moved']:18.2g}"
            f"{found['moved_over_noise']:12.2f}"
        )
    verdict = "as wanted" if result["is_met"] else "NOT as wanted"
    return "\n".join(
        [
            *lines,
            f"{result['marked_share']:.1%} of {result['flips']} flips were marked (at least {LEAST_MARKED:.0%}); "
            f"{result['fragile_share']:.1%} of {result['tokens']} tokens are (at most {MOST_FRAGILE:.0%}): {verdict}",
        ]
    )


if __name__ == "__main__":
    experiment.run(main)

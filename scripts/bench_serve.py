"""What `xplm serve` gives many clients, beside what it gives one.

    python scripts/bench_serve.py [--model smollm2-135m-instruct:q4_1] [--policy fp32] [--no-invariant] [--threads 2]
        [--turns 3] [--soak-seconds 300] [--only throughput first_token prefix soak]

throughput    32 clients with prompts of 16 to 64 tokens and replies of 128, against one client: tokens of replies over
              the time from the first request to the last token
first_token   of a prompt of 200 tokens while 8 replies grow, against its time alone; and the longest pause of one of
              those replies against its median
prefix        first token of a prompt whose first 1,000 tokens were read before, against the same time the first time
soak          100 clients at once for some minutes, a tenth of whose requests leave in the middle: the replies that stay
              are those that the same requests got alone, and the memory is what it was

Client and server share the machine's cores. Exit codes: 0 the thresholds are met, 1 one is missed, 2 no measurement.
"""

import argparse
import asyncio
import random
import sys
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from bench.run import add_where_flags, where_flags
from bench.serving import Server, Streamed
from bench.turns import spread
from bench.verdicts import Row, row, table

CLIENTS, REPLY_TOKENS, PROMPT_TOKENS = 32, 128, (16, 64)
ALONE = 4
"""Requests one after another, for the speed of one stream."""

STREAMS, ASKED_TOKENS = 8, 200
HELD_TOKENS, NEW_TOKENS = 1_000, 16
SOAK_CLIENTS, SOAK_REQUESTS, SOAK_TOKENS, LEAVERS = 100, 40, 24, 10
"""A tenth of the requests leave: those whose number ends in 0."""

HELD_AFTER = 1.1
"""What the server's memory may be after the soak, of what it was once its first minute was over."""

SETTLE_SECONDS = 1.0
"""Until replies that have been let in grow."""

IDS = (100, 40_000)
"""Prompts are drawn from these."""


def request(rng: random.Random, n_prompt: int, n_reply: int, **options: Any) -> dict[str, Any]:
    """A completion of random tokens that ends when it is as long as it may be."""
    prompt = [rng.randrange(*IDS) for _ in range(n_prompt)]
    return {"prompt": prompt, "max_tokens": n_reply, "ignore_eos": True, "seed": 1} | options


def measure_throughput(server: Server, turns: int) -> list[Row]:
    """One stream and 32, in turns."""
    rng = random.Random(1)

    async def serve(requests: Sequence[dict[str, Any]], *, are_together: bool) -> float:
        if are_together:
            replies = await asyncio.gather(*map(server.complete, requests))
        else:
            replies = [await server.complete(one) for one in requests]
        seconds = max(r.times[-1] for r in replies) - min(r.asked for r in replies)
        return len(requests) * REPLY_TOKENS / seconds

    figures: dict[str, list[float]] = {"one": [], "many": []}
    for turn in range(turns):
        for name in ("one", "many") if turn % 2 else ("many", "one"):
            count = CLIENTS if name == "many" else ALONE
            asked = [request(rng, rng.randint(*PROMPT_TOKENS), REPLY_TOKENS) for _ in range(count)]
            figures[name].append(asyncio.run(serve(asked, are_together=name == "many")))
    ratios = [many / one for one, many in zip(figures["one"], figures["many"], strict=True)]
    return [
        row("tokens/s, one client", spread(figures["one"])),
        row(f"tokens/s, {CLIENTS} clients", spread(figures["many"])),
        row(f"{CLIENTS} clients / one", spread(ratios), ">=", 5),
    ]


def measure_first_token(server: Server, turns: int) -> list[Row]:
    """A prompt alone, and while others' replies grow."""
    rng = random.Random(2)

    async def under_load() -> tuple[Streamed, list[Streamed]]:
        growing = [request(rng, 32, 2 * REPLY_TOKENS, logprobs=0) for _ in range(STREAMS)]
        tasks = [asyncio.create_task(server.complete(one)) for one in growing]
        while await server.metric("xplm_requests_running") < STREAMS:
            await asyncio.sleep(SETTLE_SECONDS)
        await asyncio.sleep(SETTLE_SECONDS)
        own = await server.complete(request(rng, ASKED_TOKENS, 1))
        return own, list(await asyncio.gather(*tasks))

    ratios, pauses = [], []
    for _ in range(turns):
        alone = asyncio.run(server.complete(request(rng, ASKED_TOKENS, 1))).first_seconds
        own, others = asyncio.run(under_load())
        ratios.append(own.first_seconds / alone)
        pauses.append(max(max(r.gaps) / spread(r.gaps).median for r in others))
    return [
        row(f"first token under {STREAMS} replies / alone", spread(ratios), "<=", 2.5),
        row("longest pause of these / median", spread(pauses), "<=", 4),
    ]


def measure_prefix(server: Server, turns: int) -> list[Row]:
    """A prompt whose beginning was read before."""
    rng = random.Random(3)
    ratios, seconds = [], []
    for _ in range(turns):
        held = request(rng, HELD_TOKENS, 1)
        first, second = (
            asyncio.run(server.complete(held | {"prompt": held["prompt"] + more})).first_seconds
            for more in (request(rng, NEW_TOKENS, 1)["prompt"] for _ in range(2))
        )
        ratios.append(first / second)
        seconds.append(first)
    return [
        row(f"first token of {HELD_TOKENS + NEW_TOKENS} tokens, seconds", spread(seconds)),
        row(f"sooner, {HELD_TOKENS} of them held", spread(ratios), ">=", 10),
    ]


def measure_soak(server: Server, seconds: float) -> list[Row]:
    """Many clients, some of which leave."""
    rng = random.Random(4)
    options = {"logprobs": 0, "temperature": 0.8}
    asked = [
        request(rng, rng.randint(*PROMPT_TOKENS), SOAK_TOKENS, **options | {"seed": seed})
        for seed in range(SOAK_REQUESTS)
    ]
    alone = [asyncio.run(server.complete(one)).parts for one in asked]
    counts = {"served": 0, "left": 0, "wrong": 0}
    memory: list[int] = []

    async def be_a_client(number: int, end: float) -> None:
        own = random.Random(number)
        while perf_counter() < end:
            which = own.randrange(SOAK_REQUESTS)
            leaves = (counts["served"] + counts["left"]) % LEAVERS == 0
            leave_after = own.randrange(1, SOAK_TOKENS) if leaves else None
            counts["left" if leaves else "served"] += 1
            reply = await server.complete(asked[which], leave_after)
            expected = alone[which][: len(reply.parts)] if leaves else alone[which]
            counts["wrong"] += reply.parts != expected

    async def watch(end: float) -> None:
        await asyncio.sleep(min(60.0, seconds / 5))
        memory.append(server.resident_bytes)
        while perf_counter() < end:
            await asyncio.sleep(10.0)
            print(f"soak: {counts}, {end - perf_counter():.0f} s left", file=sys.stderr, flush=True)

    async def soak() -> None:
        end = perf_counter() + seconds
        await asyncio.gather(watch(end), *(be_a_client(n, end) for n in range(SOAK_CLIENTS)))
        while await server.metric("xplm_requests_running") > 0:
            await asyncio.sleep(0.1)
        memory.append(server.resident_bytes)

    asyncio.run(soak())
    held = asyncio.run(server.metric("xplm_cache_held_bytes"))
    return [
        Row(f"replies to {SOAK_CLIENTS} clients in {seconds:.0f} s", counts["served"]),
        Row("requests that left", counts["left"], ">=", counts["served"] / (2 * LEAVERS)),
        Row("replies that were wrong", counts["wrong"], "<=", 0),
        Row("bytes that replies hold at the end", held, "<=", 0),
        Row("memory at the end / after its first part", memory[-1] / memory[0], "<=", HELD_AFTER),
    ]


def read_plan() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_where_flags(parser)
    parser.add_argument("--model", default="smollm2-135m-instruct:q4_1")
    parser.add_argument("--policy", default="fp32")
    parser.add_argument("--no-invariant", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--soak-seconds", type=float, default=300.0)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    return parser.parse_args()


def main() -> int:
    """Start a server, measure, print the table, judge."""
    plan = read_plan()
    options = ["--model", plan.model, "--policy", plan.policy, "--threads", str(plan.threads)]
    options += ["--quiet", "--cache-memory", "1GiB", *where_flags(plan)]
    options += ["--no-invariant"] * plan.no_invariant
    found: list[Row] = []
    with TemporaryDirectory() as sessions:
        server = Server([*options, "--sessions", sessions], plan.threads)
        try:
            measure_throughput(server, 1)  # compiles, and is not counted
            for name in plan.only:
                print(f"measuring: {name}", file=sys.stderr, flush=True)
                found += PARTS[name](server, plan)
        finally:
            server.stop()
    print(table(found))
    return 0 if all(row.is_met for row in found) else 1


PARTS: dict[str, Callable[[Server, argparse.Namespace], list[Row]]] = {
    "throughput": lambda server, plan: measure_throughput(server, plan.turns),
    "first_token": lambda server, plan: measure_first_token(server, plan.turns),
    "prefix": lambda server, plan: measure_prefix(server, plan.turns),
    "soak": lambda server, plan: measure_soak(server, plan.soak_seconds),
}

if __name__ == "__main__":
    sys.exit(main())

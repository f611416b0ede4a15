"""What bench_peers.py measures: for each part its systems, and what a turn of each is."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from bench.gate import Choices, Gate, Reference, compare, near_tie
from bench.peers import REFERENCE, SYSTEMS
from bench.processes import Worker
from bench.turns import Figures, Log, take_turns

LIMITS = "limits"  # of the machine; a system among the others
LONG = 2048
PROMPTS = (128, 256, 2048)
CONTEXTS = (256, 4096)
BATCH = 8
GATE_PROMPTS, GATE_TOKENS = 6, 48

Measure = Callable[[int], Figures]
"""From the number of a turn to a system's figures."""


@dataclass(frozen=True)
class Bench:
    """A run of the benchmark."""

    script: str  # which serves systems: --serve OPTIONS
    log: Log
    threads: int
    n_turns: int  # of each part
    prompt_tokens: int
    new_tokens: int
    seed: int
    paths: Mapping[str, str]  # of the weights: each format's, and "model", as it came
    text: Mapping[str, Any]  # what bench.weights.prepare gave

    def prompts(self, turn: int, n_tokens: int, rows: int = 1) -> list[list[int]]:
        """Pieces of the text; the same for every system in a turn."""
        rng = np.random.default_rng([self.seed, turn, n_tokens])
        ids = self.text["ids"]
        starts = rng.integers(0, len(ids), rows)
        return [[ids[(start + i) % len(ids)] for i in range(n_tokens)] for start in starts]

    def command(self, name: str, context: int) -> list[str]:
        """Of a system's process."""
        options: dict[str, Any] = {"name": name, "threads": self.threads, "context": context}
        if name != LIMITS:
            options["path"] = self.paths[SYSTEMS[name].weights]
        return [self.script, "--serve", json.dumps(options)]

    def start(self, name: str, context: int) -> Worker:
        """A system's process, which the log then knows."""
        worker = Worker(self.command(name, context), self.threads)
        known = self.log.note("systems") or {}
        if known.get(name) != worker.description:
            self.log.add({"systems": known | {name: worker.description}})
        return worker


class Part(NamedTuple):
    """A part whose systems answer requests."""

    systems: tuple[str, ...]
    measures: Callable[[Bench, str, Worker], dict[str, Measure]]  # of one system, by their names
    longest: int = 0  # prompt; 0 for the one that is asked for


def read_and_write(
    bench: Bench, name: str, worker: Worker, *, tokens: int = 0, new_tokens: int = 0
) -> dict[str, Measure]:
    """Prefill and decode."""
    n, new = tokens or bench.prompt_tokens, new_tokens or bench.new_tokens

    def measure(turn: int) -> Figures:
        prompt = bench.prompts(turn, n)
        seconds = worker.ask({"task": "time", "prompt": prompt, "new_tokens": new})
        return {
            "prefill_tokens_per_s": n / seconds["prefill_s"],
            "decode_tokens_per_s": new / seconds["decode_s"],
        }

    return {name: measure}


def read_prompts(bench: Bench, name: str, worker: Worker) -> dict[str, Measure]:
    """Prefill of several lengths."""

    def measure(turn: int) -> Figures:
        speeds = {}
        for n in PROMPTS:
            request = {"task": "time", "prompt": bench.prompts(turn, n), "new_tokens": 0}
            seconds = worker.ask(request)["prefill_s"]
            speeds[f"prefill_{n}_tokens_per_s"] = n / seconds
        return speeds

    return {name: measure}


def after_contexts(bench: Bench, name: str, worker: Worker) -> dict[str, Measure]:
    """Decode after a short and after a long prompt."""
    longest = bench.prompts(0, CONTEXTS[-1])

    def measure(turn: int, length: int) -> Figures:
        prompt = [row[:length] for row in longest]
        request = {"task": "time_after", "prompt": prompt, "new_tokens": bench.new_tokens}
        return {"token_s": worker.ask(request)["decode_s"] / bench.new_tokens}

    return {f"{name} after {length}": partial(measure, length=length) for length in CONTEXTS}


def together(bench: Bench, name: str, worker: Worker) -> dict[str, Measure]:
    """Decode one sequence, and several."""

    def measure(turn: int, rows: int) -> Figures:
        prompt = bench.prompts(turn, bench.prompt_tokens, rows)
        request = {"task": "time", "prompt": prompt, "new_tokens": bench.new_tokens}
        seconds = worker.ask(request)["decode_s"]
        return {"decode_tokens_per_s": rows * bench.new_tokens / seconds}

    return {f"{name}, {rows} at once": partial(measure, rows=rows) for rows in (1, BATCH)}


PARTS = {
    "fp32": Part(
        ("xplm fp32", "xplm fp32 portable", "llama.cpp F32", "transformers float32"),
        read_and_write,
    ),
    "half": Part(
        ("xplm bf16", "xplm fp16", "llama.cpp BF16", "llama.cpp F16", "transformers bfloat16"),
        read_and_write,
    ),
    "long": Part(
        ("xplm fp32", "llama.cpp F32", "xplm bf16", "llama.cpp BF16"),
        partial(read_and_write, tokens=LONG, new_tokens=1),
        LONG,
    ),
    "prompts": Part(
        (
            "xplm fp32 openblas",
            "xplm fp32",
            "llama.cpp F32",
            "xplm bf16 openblas",
            "xplm bf16",
            "llama.cpp BF16",
        ),
        read_prompts,
        PROMPTS[-1],
    ),
    "context": Part(("xplm fp32", "llama.cpp F32"), after_contexts, CONTEXTS[-1]),
    "batch": Part(("xplm fp32",), together),
}


def measure_part(bench: Bench, name: str) -> None:
    """Have a part's systems take turns, once they are through the gate."""
    part = PARTS[name]
    if len(bench.log.turns(name)) >= bench.n_turns:
        return
    for system in part.systems:
        pass_gate(bench, system)
    context = (part.longest or bench.prompt_tokens) + bench.new_tokens + 1
    workers = {system: bench.start(system, context) for system in (*part.systems, LIMITS)}
    measures: dict[str, Measure] = {LIMITS: workers[LIMITS].ask}
    for system in part.systems:
        measures |= part.measures(bench, system, workers[system])
    take_turns(bench.log, name, measures, bench.n_turns)
    for worker in workers.values():
        worker.stop()


def pass_gate(bench: Bench, name: str) -> None:
    """Exit with code 1 unless a system gives the reference's greedy tokens."""
    gates = bench.log.note("gates") or {}
    if name in gates:
        return
    references = find_references(bench)
    worker = bench.start(name, 2 * GATE_TOKENS)
    choices = [Choices(*worker.ask({"task": "follow", "reference": r})) for r in references]
    worker.stop()
    gate = judge_gate(bench, name, references, choices)
    if not gate.is_passed:
        print(f"error: {name} fails the gate of greedy tokens: {gate}", file=sys.stderr)
        sys.exit(1)
    bench.log.add({"gates": gates | {name: gate._asdict()}})


def find_references(bench: Bench) -> list[Reference]:
    """The reference's greedy tokens after pieces of the text."""
    known = bench.log.note("references")
    if known is None:
        worker = bench.start(REFERENCE, 2 * GATE_TOKENS)
        prompts = bench.prompts(0, GATE_TOKENS, GATE_PROMPTS)
        known = [
            worker.ask({"task": "greedy", "prompt": p, "new_tokens": GATE_TOKENS}) for p in prompts
        ]
        worker.stop()
        bench.log.add({"references": known})
    return [Reference(*reference) for reference in known]


def judge_gate(
    bench: Bench, name: str, references: list[Reference], choices: list[Choices]
) -> Gate:
    """Compare a system with the reference."""
    sizes, roundoff = bench.text["sizes"], SYSTEMS[name].roundoff
    bounds = [
        near_tie(roundoff, sizes["layers"], sizes["mlp_width"], r.deviation) for r in references
    ]
    return compare(references, choices, bounds)

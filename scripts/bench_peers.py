"""How fast xplm generates beside its peers, on the CPU: same weights, and equal greedy tokens before any speed counts.

    pip install ".[peers,plot]"
    python scripts/bench_peers.py [--only PART ...] [--cycles 5] [--text book.txt] [--out runs/bench-peers]

    fp32       a prompt of 256 tokens, then 64 decoded: float32 weights
    half       the same: bfloat16 and float16 weights
    long       a prompt of 2048 tokens
    prompts    prompts of 128, 256 and 2048 tokens, by OpenBLAS and by what xplm chooses (".[mkl]" lets it)
    context    decoding after 4096 tokens, beside decoding after 256
    batch      8 sequences at once, beside one
    process    `xplm generate` as a whole process up to its first token: time and peak memory; importing xplm
    compile    generation in each format and a training step, with no kernel compiled yet

Every system runs in a process of its own; they take turns, A B C C B A, the machine's own limits among them. Prompts
are pieces of a text that a seed draws anew each turn. The directory gets turns.jsonl (every measurement; a run that was
cut off goes on from it), table.md, figures.json and figures.png. Exit codes: 0 every threshold is met, 1 one is missed
or greedy tokens differ, 2 bad usage or a system that failed, 130 interrupted.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.limits import make_limits
from bench.peers import make_player
from bench.peers_measure import LIMITS, PARTS, Bench, measure_part
from bench.peers_plot import draw
from bench.peers_processes import measure_compilation, measure_processes
from bench.peers_rows import Speed, judge, list_speeds
from bench.processes import own_stdout, run_to_end, serve
from bench.run import add_run_flags, finish, guarded, open_log
from bench.weights import FORMATS, Sizes, prepare

from xplm.checkpoint.named import full_name
from xplm.checkpoint.pull import pull
from xplm.cli.places import home

SCRIPT = str(Path(__file__).resolve())
TEXT = Path(SCRIPT).parents[1] / "README.md"
WHOLE = {"process": measure_processes, "compile": measure_compilation}
ALL_PARTS = (*PARTS, *WHOLE)


def serve_one(options: dict[str, Any]) -> None:
    """Inside a system's process."""
    answers = own_stdout()
    make = make_limits if options["name"] == LIMITS else make_player
    serve(answers, *make(options))


def measure(plan: argparse.Namespace, folder: str) -> Bench:
    """Write the weights to a folder, and measure what is planned."""
    settings = {
        "model": plan.model,
        "threads": plan.threads,
        "prompt_tokens": plan.prompt_tokens,
        "new_tokens": plan.new_tokens,
        "text": str(plan.text),
    }
    log, seed = open_log(plan, settings)
    source = pull(plan.model, home=home())
    request = {"source": str(source), "folder": folder, "text": str(plan.text), "seed": seed}
    request |= {"formats": list(FORMATS)}
    text = run_to_end([SCRIPT, "--prepare", json.dumps(request)], plan.threads).result
    paths = {format: f"{folder}/{format}.gguf" for format in FORMATS} | {"model": str(source)}
    bench = Bench(
        script=SCRIPT,
        log=log,
        threads=plan.threads,
        n_turns=2 * plan.cycles,
        prompt_tokens=plan.prompt_tokens,
        new_tokens=plan.new_tokens,
        seed=seed,
        paths=paths,
        text=text,
    )
    for part in plan.only:
        WHOLE[part](bench) if part in WHOLE else measure_part(bench, part)
    return bench


def speeds_table(speeds: list[Speed]) -> str:
    """The speeds in Markdown."""
    lines = [
        "| system | prefill tokens/s | decode tokens/s | at the bandwidth limit |",
        "|---|---|---|---|",
    ]
    for speed in speeds:
        cells = (f"{s.median:.4g} ({s.low:.4g} to {s.high:.4g})" for s in speed[2:])
        lines.append(f"| {speed.system} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gates_table(gates: dict[str, Any]) -> str:
    """What the gate saw, in Markdown."""
    lines = [
        "| greedy tokens | equal | judged | largest tie | largest error of a margin |",
        "|---|---|---|---|---|",
    ]
    for name, gate in gates.items():
        equal = f"{gate['equal']} of {gate['positions']}"
        lines.append(
            f"| {name} | {equal} | {gate['judged']} | {gate['bound']:.3g} | {gate['error']:.3g} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure, judge, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_run_flags(parser, ALL_PARTS, ALL_PARTS, "runs/bench-peers")
    parser.add_argument(
        "--model", default="smollm2-135m-instruct:q4_1", help="a name or a GGUF file"
    )
    parser.add_argument("--text", type=Path, default=TEXT, help="what prompts are drawn from")
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--prepare", help=argparse.SUPPRESS)
    plan = parser.parse_args()
    if plan.serve:
        serve_one(json.loads(plan.serve))
        return 0
    if plan.prepare:
        print(json.dumps(prepare(json.loads(plan.prepare))))
        return 0

    with tempfile.TemporaryDirectory() as folder:
        bench = measure(plan, folder)
    log, sizes = bench.log, Sizes(**bench.text["sizes"])
    turns = {part: log.turns(part) for part in ALL_PARTS}
    rows, speeds = judge(turns, sizes, plan.prompt_tokens), list_speeds(turns, sizes)
    systems = "\n".join(f"{k}: {v}" for k, v in (log.note("systems") or {}).items())
    tables = [gates_table(log.note("gates") or {}), speeds_table(speeds)]
    title = f"{full_name(plan.model)}, threads: {plan.threads}, medians of {bench.n_turns} turns"
    draw(plan.out / "figures.png", speeds, rows, title)
    return finish(plan.out, [systems, *tables], rows)


if __name__ == "__main__":
    sys.exit(guarded(main))

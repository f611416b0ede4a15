"""Whether xplm learns: what its recipes must reach, measured and judged run by run.

    pip install ".[reference]"
    python scripts/learning.py --data tinyshakespeare.txt --facts DIRECTORY [--only shakespeare|facts|finetune]

    shakespeare   the recipe shakespeare-char in both architectures, a seed at a time; in bf16 and fp16 beside fp32; and
                  the time of a run beside PyTorch's with the same model, first weights, batches and optimizer
    facts         RustGPT's job: read the lines of pretraining_data.json, learn to answer chat_training_data.json, and
                  give the answers back word for word
    finetune      the recipe finetune with SmolLM2-135M-Instruct (Q4_1): the loss on text held out, and the peak memory

Every figure is added to a file as soon as it is known (--json); a figure that is there already is not measured again.
Exit codes: 0 every threshold is met, 1 one is missed, 2 bad usage or a run that failed, 130 interrupted.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import recipe_runs
from bench.processes import Finished, run_to_end
from bench.recipe_runs import RECIPES, SCRIPTS
from bench.run import add_where_flags, guarded, where_flags
from bench.verdicts import Row, table

MOST_LOSS = {"llama": 1.70, "gpt": 1.92}  # of each run; validation, nats a character
MOST_MEAN_LOSS = {"gpt": 1.90}  # of all seeds together
MOST_POLICY_DIFFERENCE = 0.01  # between bf16 or fp16 and fp32, same seed
LEAST_RECALLED = 52  # of 53 answers
MOST_GIB = 6.0  # fine-tuning SmolLM2
PARTS = ("shakespeare", "facts", "finetune")
EVALUATIONS = ("--set", "train.eval_every=500", "--set", "train.eval_batches=1000000")
"""Few, and each over all that is held out."""

Record = Mapping[str, Any]
"""What a run came to: its part, what tells it from the others, and its figures."""


def judge(records: Sequence[Record]) -> list[Row]:
    """The figures of all runs beside their thresholds."""
    rows = []
    parts = {part: [r for r in records if r["part"] == part] for part in (*PARTS, "torch")}
    runs = {(r["arch"], r["policy"], r["seed"]): r for r in parts["shakespeare"]}
    for (arch, policy, seed), run in runs.items():
        name, loss = f"shakespeare-char {arch} {policy} seed {seed}", run["loss"]
        rows.append(Row(f"{name}: loss", loss, "<=", MOST_LOSS[arch]))
        rows.append(Row(f"{name}: seconds", run["seconds"], "", 0.0))
        reference = runs.get((arch, "fp32", seed))
        if policy != "fp32" and reference:
            difference = abs(loss - reference["loss"])
            rows.append(Row(f"{name}: off fp32", difference, "<=", MOST_POLICY_DIFFERENCE))
    for arch, limit in MOST_MEAN_LOSS.items():
        losses = [r["loss"] for (a, policy, _), r in runs.items() if (a, policy) == (arch, "fp32")]
        if losses:
            mean = statistics.fmean(losses)
            rows.append(Row(f"shakespeare-char {arch} fp32: mean loss", mean, "<=", limit))
    for peer in parts["torch"]:
        name = f"shakespeare-char {peer['arch']} fp32 seed {peer['seed']}"
        own = runs[peer["arch"], "fp32", peer["seed"]]
        rows.append(Row(f"{name}: seconds in torch", peer["seconds"], "", 0.0))
        rows.append(Row(f"{name}: time / torch", own["seconds"] / peer["seconds"], "", 0.0))
        if peer["loss"] is not None:
            rows.append(Row(f"{name}: loss in torch", peer["loss"], "", 0.0))
    for run in parts["facts"]:
        name = f"facts {run['arch']} seed {run['seed']}"
        rows.append(
            Row(f"{name}: recalled of {run['asked']}", run["recalled"], ">=", LEAST_RECALLED)
        )
        rows.append(Row(f"{name}: seconds of both phases", run["seconds"], "", 0.0))
    for run in parts["finetune"]:
        rows.append(Row("SmolLM2, tuned: loss on text held out", run["after"], "<", run["before"]))
        rows.append(Row("SmolLM2, tuned: peak GiB", run["peak_bytes"] / 2**30, "<", MOST_GIB))
        rows.append(Row("SmolLM2, tuned: seconds", run["seconds"], "", 0.0))
    return rows


def train(plan: argparse.Namespace, recipe: str, data: Path, out: Path, *flags: str) -> Finished:
    """`xplm train`, from the beginning."""
    path, where = plan.recipes / f"{recipe}.toml", where_flags(plan)
    return recipe_runs.train(path, data, out, plan.threads, *flags, *where)


def measure_shakespeare(plan: argparse.Namespace, key: Record, out: Path) -> dict[str, Any]:
    """One run of the recipe."""
    flags = ("--set", f"model.arch={key['arch']}", "--policy", key["policy"])
    seed = ("--seed", str(key["seed"]))
    child = train(plan, "shakespeare-char", plan.data, out / "run", *flags, *seed, *EVALUATIONS)
    return {"loss": child.result["val_loss"], "seconds": child.seconds}


def measure_torch(plan: argparse.Namespace, key: Record, out: Path) -> dict[str, Any]:
    """The same run in PyTorch; some steps of it, multiplied out, unless all are wanted."""
    command = (str(SCRIPTS / "torch_twin.py"), str(plan.recipes / "shakespeare-char.toml"))
    flags = ("--set", f"model.arch={key['arch']}", "--set", f"train.seed={key['seed']}")
    steps = 0 if plan.full_torch else plan.torch_steps
    where = ("--data", str(plan.data), "--threads", str(plan.threads), "--steps", str(steps))
    return run_to_end([*command, *flags, *EVALUATIONS, *where], plan.threads).result


def measure_facts(plan: argparse.Namespace, key: Record, out: Path) -> dict[str, Any]:
    """Both phases, then every question."""
    return recipe_runs.run_facts(
        plan.facts,
        out,
        arch=key["arch"],
        seed=key["seed"],
        threads=plan.threads,
        where=where_flags(plan),
        recipes=plan.recipes,
    )


def measure_finetune(plan: argparse.Namespace, key: Record, out: Path) -> dict[str, Any]:
    """Some steps from the weights of a real model."""
    seed = ("--seed", str(key["seed"]))
    child = train(plan, "finetune", plan.data, out / "run", "--init", plan.init, *seed)
    lines = (out / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [loss for line in lines if (loss := json.loads(line)["val_loss"]) is not None]
    figures = {"before": losses[0], "after": losses[-1]}
    return {**figures, "seconds": child.seconds, "peak_bytes": child.peak_bytes}


MEASURES = {
    "shakespeare": measure_shakespeare,
    "torch": measure_torch,
    "facts": measure_facts,
    "finetune": measure_finetune,
}


def plan_runs(plan: argparse.Namespace) -> Iterator[Record]:
    """What to measure, in order: a run in PyTorch right after the one that it is compared with."""
    first, *others = plan.seeds
    if "shakespeare" in plan.only:
        for arch in plan.arch:
            key = {"part": "shakespeare", "arch": arch, "policy": "fp32", "seed": first}
            yield key
            if plan.torch_steps or plan.full_torch:
                yield key | {"part": "torch"}
            for policy in plan.policies:
                yield key | {"policy": policy}
            for seed in others:
                yield key | {"seed": seed}
    if "facts" in plan.only:
        for arch in plan.arch:
            for seed in plan.seeds:
                yield {"part": "facts", "arch": arch, "seed": seed}
    if "finetune" in plan.only:
        yield {"part": "finetune", "seed": first}


def measure(plan: argparse.Namespace) -> list[Record]:
    """The records of all that is planned, each taken from the file where it is there, and else written to it."""
    done = plan.json.read_text(encoding="utf-8") if plan.json and plan.json.exists() else ""
    known = [json.loads(line) for line in done.splitlines()]
    records: list[Record] = []
    for key in plan_runs(plan):
        record = next((r for r in known if key.items() <= r.items()), None)
        if record is None:
            with tempfile.TemporaryDirectory() as out:
                record = {**key, **MEASURES[key["part"]](plan, key, Path(out))}
            print(json.dumps(record), file=sys.stderr, flush=True)
            if plan.json:
                with plan.json.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
        records.append(record)
    return records


def main() -> int:
    """Measure, judge, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_where_flags(parser)
    parser.add_argument("--data", type=Path, help="tinyshakespeare.txt")
    parser.add_argument("--facts", type=Path, help="the directory of RustGPT's two JSON files")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, help="not all parts")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--arch", choices=tuple(MOST_LOSS), nargs="+", default=tuple(MOST_LOSS))
    parser.add_argument("--policies", nargs="*", default=["bf16", "fp16"], help="on the first seed")
    parser.add_argument("--torch-steps", type=int, default=100, help="timed steps; 0: no PyTorch")
    parser.add_argument("--full-torch", action="store_true", help="PyTorch's run to its end")
    parser.add_argument("--init", default="smollm2-135m-instruct:q4_1", help="the model to tune")
    parser.add_argument("--recipes", type=Path, default=RECIPES, help="their directory")
    parser.add_argument("--threads", type=int, default=1, help="of every run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a JSON object a line, added to")
    plan = parser.parse_args()
    if plan.data is None and plan.only != ["facts"]:
        parser.error("these parts need --data")
    if plan.facts is None and "facts" in plan.only:
        parser.error("the part facts needs --facts")

    if plan.device != "cpu" and (plan.torch_steps or plan.full_torch):
        print("PyTorch is timed on the CPU alone, and is left out", file=sys.stderr)
        plan.torch_steps, plan.full_torch = 0, False

    rows = judge(measure(plan))
    print(table(rows))
    return 0 if all(row.is_met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(guarded(main))

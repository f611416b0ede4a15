"""Three steps of `xplm train`: weights, the optimizer's state and the metrics."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file

from bits.arrays import Recorder

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "to", "red", "house", "sea"]
CLOCKED = {"tokens_per_s"}
"""Metrics that depend on the clock."""

RECIPE = """
[model]
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 2

[data]
path = "text.txt"
context = 16
batch_size = 4
accumulation = 2

[schedule]
lr = 0.01
warmup_steps = 1

[train]
steps = 3
eval_every = 3
log_every = 1
"""


class Run(NamedTuple):
    kernels: str
    settings: tuple[str, ...]  # flags of `xplm train`


RUNS = {
    "adamw": Run("fused", ("--set", "train.dropout=0.1", "--set", "train.ema=0.9")),
    "muon": Run("fused", ("--policy=bf16", "--set", "optimizer.name=muon")),
    "gpt": Run("portable", ("--policy=fp16", "--set", "model.arch=gpt")),
    "recompute": Run("fused", ("--set", "train.recompute=true", "--set", "train.z_loss=0.01")),
    "lora": Run("fused", ("--lora=2",)),  # and --init
}


def write_data(folder: Path) -> None:
    """A text, and a recipe that reads it."""
    words = np.random.default_rng(0).choice(WORDS, 600)
    (folder / "text.txt").write_text(" ".join(words), encoding="utf-8")
    (folder / "tiny.toml").write_text(RECIPE, encoding="utf-8")


def record_run(record: Recorder, name: str, folder: Path, base: Path, flags: Sequence[str]) -> Path:
    """Every tensor that a run writes, and every figure.

    Args:
        record: gets them.
        name: the run's.
        folder: of `write_data`.
        base: the model that adapters are for.
        flags: where to compute.

    Returns:
        The run's directory.
    """
    run, out = RUNS[name], folder / name
    init = ["--init", str(base)] if name == "lora" else []
    train = ["-m", "xplm", "train", "tiny.toml", "--out", str(out), "--quiet", *run.settings]
    command = [sys.executable, *train, *init, *flags]
    subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=True)

    checkpoints, group = out / "checkpoints", f"training/{name}"
    for file in sorted(checkpoints.rglob("*.safetensors")):
        for tensor, array in sorted(load_file(file).items()):
            record.add(f"{group}/{file.relative_to(checkpoints)}/{tensor}", array)
    for i, line in enumerate((out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()):
        for key, value in json.loads(line).items():
            if key not in CLOCKED and isinstance(value, int | float):
                record.add(f"{group}/metrics {i}/{key}", value)
    return out

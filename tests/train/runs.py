"""Tiny runs: a text of their own, a recipe of a few settings, and a way to start one in this process."""

from pathlib import Path
from typing import Any

import numpy as np

from xplm.backend import load_backend
from xplm.precision import Policy
from xplm.runtime import Runtime, make_runtime
from xplm.train.loop import Trainer
from xplm.train.metrics import read_lines
from xplm.train.prepare import prepare
from xplm.train.recipe import Recipe, make_recipe
from xplm.train.run_directory import RunDirectory
from xplm.train.task import training_policy

WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "to", "red", "house", "sea")


TIMED = {"tokens_per_s"}
"""What depends on the clock, of a line of metrics."""

HARD: dict[str, Any] = {
    "train__dropout": 0.1,
    "train__ema": 0.9,
    "data__accumulation": 2,
    "train__sample_prompts": ["the "],
    "train__sample_tokens": 4,
}
"""Settings of all that a resumed run has to find again."""


def write_text(path: Path, n_words: int = 400) -> Path:
    """Words drawn at random, a dozen to a line."""
    words = np.random.default_rng(0).choice(WORDS, n_words)
    lines = [" ".join(words[i : i + 12]) for i in range(0, n_words, 12)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tiny_recipe(folder: Path, **settings: Any) -> Recipe:
    """A model of a few thousand parameters and a dozen steps; settings are by "section__key"."""
    tables: dict[str, dict[str, Any]] = {
        "model": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
        "data": {"path": str(folder / "text.txt"), "context": 8, "batch_size": 4},
        "schedule": {"lr": 0.01, "warmup_steps": 2},
        "train": {"steps": 12, "eval_every": 4, "log_every": 2},
    }
    if not (folder / "text.txt").exists():
        write_text(folder / "text.txt")
    for place, value in settings.items():
        section, _, key = place.partition("__")
        tables.setdefault(section, {})[key] = value
    return make_recipe(tables)


def training_runtime(recipe: Recipe, backend: str = "numpy", device: str = "cpu") -> Runtime:
    policy = training_policy(Policy.parse(recipe.train.policy))
    return make_runtime(load_backend(backend, device), policy)


def start(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    backend: str = "numpy",
    device: str = "cpu",
) -> Trainer:
    """A run that is ready; its tokens are kept beside it."""
    return prepare(
        recipe,
        training_runtime(recipe, backend, device),
        RunDirectory(out),
        init=Path(recipe.train.init) if recipe.train.init else None,
        resume=resume,
        cache=out.parent / "tokens",
        progress=lambda what, n_bytes, total_bytes: None,
    )


def run_to(trainer: Trainer, step: int | None = None) -> Trainer:
    """Run to the end, or until `step` steps are taken, without saving there."""
    for progress in trainer.run():
        if progress.step == step:
            break
    trainer.close()
    return trainer


def host_weights(trainer: Trainer) -> dict[str, np.ndarray]:
    """The weights that the run has, on the host."""
    to_host = trainer.job.task.rt.backend.to_host
    return {name: to_host(x) for name, x in trainer.state.weights.items()}


def assert_bitwise_equal(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype
        assert actual[name].tobytes() == array.tobytes(), name


def untimed(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics, without what depends on the clock."""
    lines = read_lines(path / "metrics.jsonl")
    return [{key: v for key, v in line.items() if key not in TIMED} for line in lines]

"""`xplm bench --train`: how long a training step takes."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from xplm.cli.ahead import compile_ahead
from xplm.cli.flags import ModelFlags
from xplm.cli.output import Output
from xplm.cli.peak import peak_json, peak_line
from xplm.errors import RequestError
from xplm.models.decoder import param_specs
from xplm.out_of_memory import memory_faults
from xplm.params import count_params
from xplm.precision import Policy
from xplm.train.architecture import make_config
from xplm.train.dry_run import measure_process
from xplm.train.memory import plan_step, require_step_memory
from xplm.train.prepare import ADVICE
from xplm.train.random_step import RandomVocabulary, draw_batches, make_step, time_steps
from xplm.train.recipe import Recipe, make_recipe, parse_setting
from xplm.train.task import training_policy

STEPS = 10
"""Timed, if nothing else is asked for."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "model": {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4},
    "data": {"path": "random ids", "vocab_size": 65, "context": 64, "batch_size": 12},
    "optimizer": {"name": "adamw", "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1, "clip": 1.0},
    "schedule": {"kind": "constant", "lr": 1e-3},
    "train": {"steps": 1},
}
"""The sizes and the optimizer of the recipe shakespeare-char."""

SIZES = ("vocab_size", "context", "batch_size", "accumulation")
PASSES = ("seed", "dropout", "label_smoothing", "z_loss", "ema", "recompute")
"""What a step reads of [data] and of [train]."""


def bench_train(
    arch: str,
    settings: Sequence[str],
    model: ModelFlags,
    out: Output,
    *,
    n_steps: int,
    seed: int,
) -> None:
    """Time training steps on random ids, and print the median.

    Args:
        arch: "llama" or "gpt".
        settings: KEY=VALUE each.
        model: where and how to compute.
        out: where to print.
        n_steps: how many to time.
        seed: of weights, ids and dropout.

    Raises:
        XplmError: a setting is unknown or out of range, or the backend is not there.
    """
    recipe = trial_recipe(arch, settings, seed)
    data = recipe.data
    rt = model.where.runtime(training_policy(Policy.parse(model.policy)))
    vocab_size = data.vocab_size or 0
    config = make_config(recipe.model, data.context, RandomVocabulary(vocab_size))
    if data.context > config.context_length:
        raise RequestError(
            f"context must fit the model's {config.context_length} positions; got {data.context}"
        )
    specs = param_specs(config)
    require_step_memory(rt, recipe, config, specs)
    compile_ahead(rt, "train", arch)
    plan = plan_step(rt, recipe, config, specs, measure_process(recipe, rt, config))
    with memory_faults(rt.backend, "a training step", ADVICE):
        step = make_step(recipe, rt, config, draw_batches(recipe, vocab_size))
        seconds = time_steps(step, rt.backend.synchronize, n_steps)
    step_seconds = median(seconds)
    peak_memory_bytes = rt.backend.memory().peak
    n_tokens = data.accumulation * data.batch_size * data.context
    n_params = count_params(specs)

    backend = rt.backend
    rows = f"{data.batch_size} x {data.context} tokens"
    passes = f", {data.accumulation} passes" if data.accumulation > 1 else ""
    out.line(
        f"{recipe.model.arch}  {n_params:,} parameters  {model.policy}  {backend.name} on {backend.device_name}"
    )
    out.line(f"step     {1e3 * step_seconds:10.1f} ms         {rows}{passes}, median of {n_steps}")
    out.line(f"speed    {n_tokens / step_seconds:10.0f} tokens/s")
    out.line(peak_line(plan, peak_memory_bytes))
    out.result(
        {
            "step_seconds": step_seconds,
            "tokens_per_s": n_tokens / step_seconds,
            **peak_json(plan, peak_memory_bytes),
            "parameters": n_params,
            "batch_size": data.batch_size,
            "context": data.context,
            "runs": seconds,
            "arch": recipe.model.arch,
            "device": backend.device_name,
            "backend": backend.name,
            "policy": model.policy,
            "kernels": model.kernels,
        }
    )


def trial_recipe(arch: str, settings: Sequence[str], seed: int) -> Recipe:
    """The recipe of a step: DEFAULTS, with what the settings change.

    A setting has a recipe's keys; those of [data] may go without their section, and vocab_size, which only random ids
    leave open, counts as the model's too.

    Raises:
        RequestError: a step does not read the key, or the value is out of range.
    """
    tables = {section: dict(table) for section, table in DEFAULTS.items()}
    tables["model"]["arch"] = arch
    tables["train"]["seed"] = seed
    for text in settings:
        place, value = parse_setting(_full(text))
        section, _, key = place.partition(".")
        if not _is_read(section, key):
            raise RequestError(
                f"a training step reads model.*, optimizer.*, {', '.join(SIZES)} and train.{{{','.join(PASSES)}}}; "
                f"got {place}"
            )
        tables[section][key] = value
    recipe = make_recipe(tables)
    if not recipe.data.vocab_size or recipe.data.vocab_size < 1:
        raise RequestError(f"vocab_size must be at least 1; got {recipe.data.vocab_size}")
    return recipe


def _full(text: str) -> str:
    place, equals, value = text.partition("=")
    place = place.strip()
    if place in SIZES or place == "model.vocab_size":
        place = f"data.{place.removeprefix('model.')}"
    return f"{place}{equals}{value}"


def _is_read(section: str, key: str) -> bool:
    known: Mapping[str, Sequence[str]] = {"data": SIZES, "train": PASSES}
    return section in ("model", "optimizer") or key in known.get(section, ())

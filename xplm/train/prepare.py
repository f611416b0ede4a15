"""From a recipe to a run that is ready to start, or to go on."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xplm.checkpoint.adapter import write_adapter
from xplm.checkpoint.checkpoint import Checkpoint
from xplm.checkpoint.load import load_params
from xplm.checkpoint.opening import open_checkpoint
from xplm.checkpoint.save import MODEL_DTYPES, save_directory
from xplm.config import DecoderConfig
from xplm.errors import CheckpointError, RequestError
from xplm.models.decoder import param_specs
from xplm.models.loss_scale import make_loss_scale
from xplm.out_of_memory import memory_faults
from xplm.params import ParamSpec, init_params
from xplm.precision import cast
from xplm.progress import OnProgress
from xplm.runtime import Runtime
from xplm.text.tokenizer import Tokenizer
from xplm.text.trainable import train_tokenizer, with_chat_template
from xplm.train.architecture import make_config
from xplm.train.data import Dataset, data_digest, open_dataset, read_texts
from xplm.train.loop import Job, Trainer
from xplm.train.lora import adapter_specs
from xplm.train.memory import require_step_memory
from xplm.train.notes import run_notes
from xplm.train.optimizers import find_optimizer
from xplm.train.random_step import RandomVocabulary
from xplm.train.recipe import Recipe, differences
from xplm.train.run_directory import RunDirectory
from xplm.train.state import TrainState
from xplm.train.step import Task
from xplm.train.task import first_state, gradient_formats, make_task
from xplm.typing import Params

ADVICE = "lower data.batch_size or data.context, take a smaller model, or free memory"
"""What to change in a recipe whose run does not fit the memory."""


class Material(NamedTuple):
    """What a run is made of, before it has weights."""

    recipe: Recipe
    rt: Runtime
    base: Checkpoint | None  # the model that it goes on from
    config: DecoderConfig
    tokenizer: Tokenizer
    dataset: Dataset
    digest: str  # of the data
    notes: list[str]  # what the run does otherwise than the recipe says
    steps: int  # of the whole run
    specs: Mapping[str, ParamSpec]  # of the model
    trained: Mapping[str, ParamSpec]  # of what is trained: the adapters, where there are any


def prepare(
    recipe: Recipe,
    rt: Runtime,
    directory: RunDirectory,
    *,
    init: Path | None,
    resume: bool,
    cache: Path,
    progress: OnProgress,
    tokenizer_of: Path | None = None,
) -> Trainer:
    """Read the data, make or load the model, and open the run's directory.

    Args:
        recipe: what to do.
        rt: where; its policy is a `training_policy`.
        directory: where to keep it.
        init: the files of the model that the recipe names to go on from; None where it names none, or where a run
            that trains weights, not adapters, is resumed from a checkpoint.
        resume: go on from the newest checkpoint; from the beginning where there is none.
        cache: folder for tokens that are worth keeping.
        progress: told how far reading is.
        tokenizer_of: the files of the model whose tokenizer a new model takes; None where one is made for the data,
            or the run has its own already.

    Returns:
        The run.

    Raises:
        XplmError: the recipe, the data, the model or the directory is not fit for it.
    """
    with ExitStack() as on_failure:
        on_failure.callback(directory.release)
        on_failure.enter_context(memory_faults(rt.backend, "a run", ADVICE))
        trainer = _open_run(recipe, rt, directory, init, resume, cache, progress, tokenizer_of)
        on_failure.pop_all()
        return trainer


def _open_run(
    recipe: Recipe,
    rt: Runtime,
    directory: RunDirectory,
    init: Path | None,
    resume: bool,
    cache: Path,
    progress: OnProgress,
    tokenizer_of: Path | None,
) -> Trainer:
    directory.check(resume=resume)
    state = directory.load_newest(rt) if resume else None
    if state and recipe.train.init and not recipe.train.lora:
        init = directory.newest  # all that is still needed of that model went into it
    material = read_material(
        recipe,
        rt,
        init=init,
        cache=cache,
        progress=progress,
        tokenizer_of=tokenizer_of,
        run=directory.newest if state else None,
        allocated=state.n_numbers * rt.host_dtype.param.itemsize if state else 0,
    )
    if state is None:
        task, state = make_first(material)
    else:
        task = _make_task(material, _load_frozen(material))
        _check_state(state, task, directory.recipe, recipe)
        state = _go_on(state, task)
        if directory.data_digest not in (None, material.digest):
            material.notes.append(f"{recipe.data.path} holds other data than the run began with")
    if state.step < material.steps:
        directory.begin(recipe, material.digest, resume=resume)
    else:
        material.notes.append(
            f"the run has taken {state.step:,} steps of {material.steps:,}: nothing is left to do, and no file is "
            "changed; ask for more --steps to go on"
        )
        directory.publish_newest()
    tokenizer = material.tokenizer
    write = _model_writer(task, tokenizer)
    notes = tuple(material.notes)
    job = Job(recipe, task, material.dataset, tokenizer, material.steps, write, notes)
    return Trainer(job, directory, state)


def read_material(
    recipe: Recipe,
    rt: Runtime,
    *,
    init: Path | None,
    cache: Path,
    progress: OnProgress,
    tokenizer_of: Path | None = None,
    run: Path | None = None,
    allocated: int = 0,
) -> Material:
    """Read the data, and settle the model that is to be trained on them.

    Whether a step fits the free memory is checked as soon as may be: before anything is read, as if the vocabulary of a
    new model had one token; with the tokenizer; and where rows are as wide as the longest example, with the data.

    Args:
        recipe: what to do.
        rt: where; its policy is a `training_policy`.
        init: as `prepare` takes it.
        cache: as `prepare` takes it.
        progress: as `prepare` takes it.
        tokenizer_of: as `prepare` takes it.
        run: the checkpoint that a run goes on from, whose tokenizer it keeps; None for a run that begins.
        allocated: bytes of that run's state, which is loaded.

    Raises:
        OutOfMemoryError: a step does not fit the free memory.
        XplmError: the recipe, the data or the model is not fit for it.
    """
    rank = recipe.train.lora
    if rank and init is None:
        raise RequestError("adapters go on from a model; give train.init, or --init")
    find_optimizer(recipe.optimizer.name).make_options(recipe.optimizer.options)
    base = open_checkpoint(init) if init else None
    context = recipe.data.context
    rough = base.config if base else make_config(recipe.model, context, RandomVocabulary(1))
    if context > rough.context_length:
        raise RequestError(
            f"data.context must fit the model's {rough.context_length} positions; got {context}"
        )
    width = 1 if recipe.data.has_rows_of_any_width else context
    _require_memory(recipe, rt, rough, width, allocated)
    speaks_as = base or (open_checkpoint(tokenizer_of) if tokenizer_of else None)
    tokenizer = _tokenizer(recipe, speaks_as, run, progress)
    config = base.config if base else make_config(recipe.model, context, tokenizer)
    _require_memory(recipe, rt, config, width, allocated)
    digest = data_digest(Path(recipe.data.path), progress)
    dataset = _dataset(recipe, tokenizer, cache, digest, progress)
    if dataset.width > width:
        _require_memory(recipe, rt, config, dataset.width, allocated)
    specs = param_specs(config)
    trained = adapter_specs(specs, rank) if rank else specs
    steps = _steps(recipe, dataset)
    notes = run_notes(recipe, tokenizer, dataset, steps)
    return Material(
        recipe, rt, base, config, tokenizer, dataset, digest, notes, steps, specs, trained
    )


def _require_memory(
    recipe: Recipe, rt: Runtime, config: DecoderConfig, width: int, allocated: int
) -> None:
    """Refuse a run whose steps, on rows of `width` tokens, do not fit the free memory.

    Raises:
        OutOfMemoryError: they do not.
    """
    recipe = replace(recipe, data=replace(recipe.data, context=width))
    specs = param_specs(config)
    trained = adapter_specs(specs, recipe.train.lora) if recipe.train.lora else specs
    require_step_memory(rt, recipe, config, trained, allocated=allocated)


def make_first(material: Material) -> tuple[Task, TrainState]:
    """The task of a run that begins, and its state before the first step.

    Raises:
        XplmError: the model cannot be loaded, or the optimizer or the schedule is not there.
    """
    recipe, rt, trained = material.recipe, material.rt, material.trained
    task = _make_task(material, _load_frozen(material))
    if material.base and not recipe.train.lora:
        return task, first_state(task, load_params(material.base, rt))
    return task, first_state(task, init_params(rt, trained, recipe.train.seed))


def _load_frozen(material: Material) -> Params:
    """The model beside whose weights adapters are trained, in the compute dtype; nothing where there are none."""
    rt = material.rt
    if material.base is None or not material.recipe.train.lora:
        return {}
    weights = load_params(material.base, rt)
    return {name: cast(weights.pop(name), rt.dtype.compute) for name in material.specs}


def _make_task(material: Material, frozen: Params) -> Task:
    recipe, rt, config = material.recipe, material.rt, material.config
    return make_task(recipe, rt, config, material.trained, frozen, material.steps)


def _tokenizer(
    recipe: Recipe, model: Checkpoint | None, run: Path | None, progress: OnProgress
) -> Tokenizer:
    """The run's own where it has begun, else that of a model, else one made for the data."""
    data = recipe.data
    if run:
        tokenizer = Tokenizer.from_directory(run)
    elif model and model.gguf_metadata is not None:
        tokenizer = Tokenizer.from_gguf(model.gguf_metadata)
    elif model:
        tokenizer = Tokenizer.from_directory(model.path)
    else:
        paths = [Path(path) for path in (data.path, data.vocab_from) if path]
        texts = read_texts(paths, progress, of_chats=data.kind == "chat")
        tokenizer = train_tokenizer(data.tokenizer_name, texts, vocab_size=data.vocab_size)
    return with_chat_template(tokenizer) if data.kind == "chat" else tokenizer


def _dataset(
    recipe: Recipe, tokenizer: Tokenizer, cache: Path, digest: str, progress: OnProgress
) -> Dataset:
    data = recipe.data
    return open_dataset(
        Path(data.path),
        tokenizer,
        kind=data.kind,
        context=data.context,
        batch_size=data.batch_size,
        n_micro=data.accumulation,
        seed=recipe.train.seed,
        held_out=data.held_out,
        packed=data.packed,
        cache=cache,
        digest=digest,
        progress=progress,
    )


def _steps(recipe: Recipe, dataset: Dataset) -> int:
    """Steps of the whole run."""
    if recipe.train.steps:
        return recipe.train.steps
    rows = recipe.data.batch_size * recipe.data.accumulation
    return max(1, round(recipe.train.epochs * dataset.n_examples / rows))


def _check_state(state: TrainState, task: Task, before: Recipe | None, now: Recipe) -> None:
    """Refuse a state that belongs to another model or optimizer, or has another dtype."""
    if before and before.optimizer.name != now.optimizer.name:
        raise RequestError(
            f"a run is resumed with the optimizer that it began with, {before.optimizer.name}; "
            f"got {now.optimizer.name}; begin another run with --init"
        )
    if any(param.dtype != task.rt.dtype.param for param in state.masters.values()):
        raise RequestError(
            "a run is resumed with a policy whose masters have the dtype that it began with; "
            f"got {task.rt.policy}; begin another run with --init"
        )
    first = task.optimizer.init(state.masters, task.specs, task.options)
    if first.moments.keys() != state.optimizer.moments.keys():
        raise RequestError(
            "a run is resumed with options that keep the optimizer's moments as they are; "
            "take up the run's own recipe.toml"
        )
    found = {name: tuple(x.shape) for name, x in state.masters.items()}
    wanted = {name: spec.shape for name, spec in task.specs.items()}
    if found != wanted:
        names = sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
        raise CheckpointError(
            f"a run is resumed with the model that it began with; {names[0]} is {found.get(names[0])} in its "
            f"checkpoint and {wanted.get(names[0])} by the recipe; resume with the run's own recipe.toml"
        )
    kept = ("model.", "data.tokenizer:", "data.vocab_size:")
    changed = [d for d in differences(before, now) if d.startswith(kept)] if before else []
    if changed:
        raise RequestError(
            f"a run is resumed with the model and the tokenizer that it began with; got {', '.join(changed)}; "
            "begin another run"
        )


def _go_on(state: TrainState, task: Task) -> TrainState:
    """A state as this run's policy and recipe want it: another may have begun it."""
    scale = make_loss_scale(*gradient_formats(task.rt.policy))
    if scale.is_dynamic != state.scale.is_dynamic:
        state = replace(state, scale=replace(scale, skipped=state.scale.skipped))
    if task.recipe.ema and not state.average:
        state = replace(state, average=dict(state.masters))
    return state


def _model_writer(task: Task, tokenizer: Tokenizer) -> Any:
    """What writes a run's model: a Hugging Face directory, or an adapter's."""
    rt = task.rt
    # What the model was evaluated in; nobody stores weights in float64.
    dtype = rt.policy.compute if rt.policy.compute in MODEL_DTYPES else "float32"

    def write(path: Path, state: TrainState) -> None:
        def read(name: str, dtype: np.dtype[Any]) -> np.ndarray:
            return rt.backend.to_host(state.weights[name]).astype(dtype)

        if task.recipe.lora:
            tensors = {name: read(name, np.dtype(np.float32)) for name in task.specs}
            write_adapter(path, task.config, tensors, base=task.recipe.init)
            tokenizer.save(path)
            return
        shapes = {name: spec.shape for name, spec in task.specs.items()}
        save_directory(path, task.config, shapes, read, dtype, tokenizer.save)

    return write

"""A training step of xplm and of PyTorch: the same weights, ids and optimizer, each in a process of its own."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from xplm.backend import load_backend
from xplm.checkpoint.load import load_params
from xplm.checkpoint.opening import open_checkpoint
from xplm.checkpoint.pull import pull
from xplm.cli.places import home
from xplm.config import DecoderConfig
from xplm.models.decoder import param_specs
from xplm.params import init_params
from xplm.runtime import Runtime, make_runtime
from xplm.train.architecture import make_config
from xplm.train.random_step import RandomVocabulary, draw_batches
from xplm.train.recipe import (
    DataRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Recipe,
    ScheduleRecipe,
    TrainRecipe,
)
from xplm.train.step import train_step
from xplm.train.task import first_state, make_task
from xplm.typing import Params

CLIP, BETA1, BETA2, WEIGHT_DECAY = 1.0, 0.9, 0.99, 0.1

TakeStep = Callable[[], float]
"""Takes a training step; returns its loss."""


class Shape(NamedTuple):
    """A model, and the batch of a step."""

    batch: int
    context: int
    lr: float = 1e-3
    hidden_size: int = 0  # the next five are of a new model
    mlp: int = 0
    layers: int = 0
    heads: int = 0
    vocab: int = 0
    init: str = ""  # a model to begin with, instead
    policy: str = "fp32"


SHAPES = {
    "d384": Shape(12, 256, 1e-3, 384, 1024, 6, 6, 65),
    "d384-bf16": Shape(12, 256, 1e-3, 384, 1024, 6, 6, 65, policy="bf16"),
    "d288": Shape(8, 256, 1e-3, 288, 768, 6, 6, 4096),
    "d128": Shape(8, 80, 1e-3, 128, 256, 3, 4, 500),
    "finetune": Shape(2, 256, 3e-5, init="smollm2-135m-instruct:q4_1"),
}


def make_recipe(shape: Shape, seed: int) -> Recipe:
    """The optimizer and the sizes, as a recipe."""
    model = ModelRecipe()
    if not shape.init:
        model = ModelRecipe(
            hidden_size=shape.hidden_size,
            intermediate_size=shape.mlp,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
        )
    options = {"beta1": BETA1, "beta2": BETA2, "weight_decay": WEIGHT_DECAY}
    return Recipe(
        model=model,
        data=DataRecipe(path="random ids", context=shape.context, batch_size=shape.batch),
        optimizer=OptimizerRecipe(clip=CLIP, options=options),
        schedule=ScheduleRecipe(kind="constant", lr=shape.lr),
        train=TrainRecipe(steps=1, seed=seed),
    )


def make_weights(shape: Shape, rt: Runtime, seed: int) -> tuple[DecoderConfig, Params]:
    """The configuration and the weights to begin with, in float32."""
    if shape.init:
        checkpoint = open_checkpoint(pull(shape.init, home=home()))
        return checkpoint.config, load_params(checkpoint, rt)
    vocabulary = RandomVocabulary(shape.vocab)
    config = make_config(make_recipe(shape, seed).model, shape.context, vocabulary)
    return config, init_params(rt, param_specs(config), seed)


def make_xplm_step(
    shape: Shape,
    kernels: str,
    blas: str | None,
    seed: int,
    device: str = "cpu",
    backend: str | None = None,
) -> TakeStep:
    """xplm's step."""
    recipe = make_recipe(shape, seed)
    rt = make_runtime(load_backend(backend, device, blas=blas), shape.policy, kernels)
    config, params = make_weights(shape, make_runtime(load_backend(backend, device), "fp32"), seed)
    task = make_task(recipe, rt, config, param_specs(config), {}, recipe.train.steps)
    batches = draw_batches(recipe, config.vocab_size)
    state = first_state(task, params)
    del params

    def step() -> float:
        nonlocal state
        state, report = train_step(task, state, batches)
        return report.loss

    return step


def make_torch_step(
    shape: Shape, threads: int, is_compiled: bool, seed: int, device: str = "cpu"
) -> TakeStep:
    """PyTorch's step, of transformers' Llama."""
    import torch

    from bench.torch_model import make_torch_model

    torch.set_num_threads(threads)
    config, params = make_weights(shape, make_runtime(load_backend(), "fp32"), seed)
    model = make_torch_model(config, {name: np.asarray(p) for name, p in params.items()})
    model = model.to(device)
    del params
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=shape.lr, betas=(BETA1, BETA2), fused=True)
    (batch,) = draw_batches(make_recipe(shape, seed), config.vocab_size)
    x, y = (torch.tensor(ids, device=device) for ids in (batch.ids, batch.targets))

    def loss_of(ids: Any, targets: Any) -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=shape.policy == "bf16"):
            logits = model(ids, use_cache=False).logits.float()
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    compute_loss = torch.compile(loss_of) if is_compiled else loss_of

    def step() -> float:
        loss = compute_loss(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return float(loss.detach())

    return step

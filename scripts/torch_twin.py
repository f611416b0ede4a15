"""A recipe trained by PyTorch: the same model, first weights, batches, learning rates and optimizer as `xplm train`'s.

    pip install ".[reference]"
    python scripts/torch_twin.py shakespeare-char --data tinyshakespeare.txt [--set model.arch=gpt]

The model is transformers', uncompiled, in float32. The last line of stdout is JSON: the seconds of training and
evaluations, and the last validation loss. With --steps N, that many steps and one evaluation are timed, and multiplied
out to the whole run; there is no loss then, but the median of a step.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from xplm.backend import load_backend
from xplm.models.head import IGNORE_INDEX
from xplm.runtime import make_runtime
from xplm.train.data import Batch
from xplm.train.loop import Job
from xplm.train.prepare import prepare
from xplm.train.recipe import load_recipe, parse_setting
from xplm.train.run_directory import RunDirectory

WARM_UP = 5  # steps that are not timed


def begin(path: Path, settings: dict[str, Any]) -> tuple[Job, Any]:
    """xplm's run, before its first step, and its weights as a module."""
    recipe = load_recipe(path, settings)
    with tempfile.TemporaryDirectory() as folder:
        trainer = prepare(
            recipe,
            make_runtime(load_backend(), "fp32"),
            RunDirectory(Path(folder) / "run"),
            init=None,
            resume=False,
            cache=Path(folder) / "tokens",
            progress=lambda what, n_bytes, total_bytes: None,
        )
        model = AutoModelForCausalLM.from_pretrained(
            trainer.save(), attn_implementation="sdpa", dtype=torch.float32
        )
        trainer.close()
    return trainer.job, model.eval()  # which leaves out dropout, and nothing else


def make_optimizer(job: Job, model: Any) -> torch.optim.Optimizer:
    """AdamW; matrices decay, vectors do not."""
    options = job.task.options
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        betas=(options.beta1, options.beta2),
        eps=options.eps,
        weight_decay=options.weight_decay,
        fused=True,
    )


def loss_of(model: Any, batch: Batch) -> torch.Tensor:
    """Mean cross entropy over the scored targets."""
    logits = model(torch.tensor(batch.ids), use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.tensor(batch.targets).flatten(), ignore_index=IGNORE_INDEX
    )


def take_step(job: Job, model: Any, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Forward, backward, clipping, update."""
    for group in optimizer.param_groups:
        group["lr"] = job.task.schedule(step)
    optimizer.zero_grad(set_to_none=True)
    loss_of(model, job.dataset.batch(step)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), job.recipe.optimizer.clip)
    optimizer.step()


@torch.no_grad()
def evaluate(job: Job, model: Any) -> float:
    """Mean loss over what is held out."""
    batches = list(job.dataset.validation(job.recipe.train.eval_batches))
    total = sum(float(loss_of(model, batch)) * batch.n_targets for batch in batches)
    return total / sum(batch.n_targets for batch in batches)


def train(job: Job, model: Any) -> dict[str, Any]:
    """The whole run; evaluated before its first step, as often as the recipe says, and at its end."""
    optimizer = make_optimizer(job, model)
    started = perf_counter()
    loss = evaluate(job, model)
    for step in range(job.steps):
        take_step(job, model, optimizer, step)
        if step + 1 == job.steps or (step + 1) % job.recipe.train.eval_every == 0:
            loss = evaluate(job, model)
    return {"seconds": perf_counter() - started, "loss": loss}


def time_steps(job: Job, model: Any, n_steps: int) -> dict[str, Any]:
    """The whole run's seconds, from the median of some steps and one evaluation."""
    optimizer = make_optimizer(job, model)
    seconds = []
    for step in range(WARM_UP + n_steps):
        started = perf_counter()
        take_step(job, model, optimizer, step)
        seconds.append(perf_counter() - started)
    started = perf_counter()
    evaluate(job, model)
    evaluation = perf_counter() - started

    n_evaluations = 1 + -(-job.steps // job.recipe.train.eval_every)
    step = statistics.median(seconds[WARM_UP:])
    whole = job.steps * step + n_evaluations * evaluation
    return {"seconds": whole, "loss": None, "step_seconds": step}


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("recipe", type=Path, help="one whose optimizer is adamw")
    parser.add_argument("--data", required=True, help="as `xplm train` takes it")
    parser.add_argument("--set", action="append", default=[], help="as `xplm train` takes it")
    parser.add_argument(
        "--steps", type=int, default=0, help="time so many alone; 0: train to the end"
    )
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = dict(parse_setting(text) for text in arguments.set)
    job, model = begin(arguments.recipe, {"data.path": arguments.data} | settings)
    steps = arguments.steps
    print(json.dumps(time_steps(job, model, steps) if steps else train(job, model)))


if __name__ == "__main__":
    main()

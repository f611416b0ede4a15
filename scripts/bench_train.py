"""A training step of xplm beside PyTorch's, on the CPU, in one run: forward, backward, clipping, AdamW, in float32.

    pip install ".[reference]"
    python scripts/bench_train.py [--hidden-size 384 --layers 6 --heads 6 --mlp 1024 --vocab 65 --batch 12]

Both train the same Llama architecture on the same ids from the same weights, each in a process of its own. No time
counts until both have given the same loss at the first step. Then they take turns, A B B A; medians are printed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from xplm.backend import load_backend
from xplm.config import DecoderConfig
from xplm.models.decoder import param_specs
from xplm.params import init_params
from xplm.runtime import make_runtime
from xplm.train.architecture import make_config
from xplm.train.recipe import (
    DataRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Recipe,
    ScheduleRecipe,
    TrainRecipe,
)
from xplm.train.trial import RandomVocabulary, draw_batches, make_step

LR, CLIP, BETA1, BETA2, WEIGHT_DECAY = 1e-3, 1.0, 0.9, 0.99, 0.1
SAME_LOSS = 1e-4  # relative: float32 sums of a few million terms in another order
MACHINE_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # BLAS is to choose its own kernel
SYSTEMS = ("xplm, portable kernels", "xplm, fused kernels", "torch eager", "torch.compile")

Step = Callable[[], float]
"""Takes a training step; returns its loss."""


def make_recipe_of(sizes: argparse.Namespace) -> Recipe:
    """Sizes and optimizer, as a recipe."""
    return Recipe(
        model=ModelRecipe(
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.mlp,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
        ),
        data=DataRecipe(path="random ids", context=sizes.context, batch_size=sizes.batch),
        optimizer=OptimizerRecipe(
            clip=CLIP, options={"beta1": BETA1, "beta2": BETA2, "weight_decay": WEIGHT_DECAY}
        ),
        schedule=ScheduleRecipe(kind="constant", lr=LR),
        train=TrainRecipe(steps=1, seed=sizes.seed),
    )


def make_model(sizes: argparse.Namespace) -> DecoderConfig:
    """The configuration."""
    vocabulary = RandomVocabulary(sizes.vocab)
    return make_config(make_recipe_of(sizes).model, sizes.context, vocabulary)


def xplm_step(sizes: argparse.Namespace, kernels: str) -> Step:
    """xplm's step."""
    recipe = make_recipe_of(sizes)
    rt = make_runtime(load_backend(), "fp32", kernels)
    step = make_step(recipe, rt, make_model(sizes), draw_batches(recipe, sizes.vocab))
    return lambda: step().loss


def torch_step(sizes: argparse.Namespace, is_compiled: bool) -> Step:
    """PyTorch's step, of transformers' Llama."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(sizes.threads)
    config = make_model(sizes)
    (batch,) = draw_batches(make_recipe_of(sizes), sizes.vocab)
    model = LlamaForCausalLM(LlamaConfig(**config.to_hf(), attn_implementation="sdpa"))
    params = init_params(make_runtime(load_backend(), "fp32"), param_specs(config), sizes.seed)
    model.load_state_dict({k: torch.tensor(v) for k, v in params.items()}, strict=False)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(BETA1, BETA2), fused=True)
    x, y = torch.tensor(batch.ids), torch.tensor(batch.targets)
    forward = torch.compile(model) if is_compiled else model

    def step() -> float:
        logits = forward(x).logits
        loss = torch.nn.functional.cross_entropy(logits.view(-1, sizes.vocab), y.view(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return float(loss.detach())

    return step


def serve(index: int, sizes: argparse.Namespace) -> None:
    """Inside a system's process: a step for every line of stdin, its loss and seconds on stdout."""
    makers: tuple[Callable[[], Step], ...] = (
        lambda: xplm_step(sizes, "portable"),
        lambda: xplm_step(sizes, "fused"),
        lambda: torch_step(sizes, is_compiled=False),
        lambda: torch_step(sizes, is_compiled=True),
    )
    step = makers[index]()
    for _ in sys.stdin:
        started = perf_counter()
        loss = step()
        print(json.dumps([loss, perf_counter() - started]), flush=True)


def start(index: int) -> "subprocess.Popen[str]":
    """A system's process."""
    threads = sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv else "2"
    environment = {k: v for k, v in os.environ.items() if k not in MACHINE_VARIABLES}
    environment |= dict.fromkeys(
        ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), threads
    )
    return subprocess.Popen(
        [sys.executable, __file__, *sys.argv[1:], "--serve", str(index)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def take_step(process: "subprocess.Popen[str]") -> tuple[float, float]:
    """Loss and seconds of a system's next step."""
    assert process.stdin
    assert process.stdout
    process.stdin.write("step\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        sys.exit(f"error: a system ended with exit code {process.wait()}; see above")
    loss, seconds = json.loads(line)
    return loss, seconds


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    for name, default in (
        ("hidden-size", 384),
        ("layers", 6),
        ("heads", 6),
        ("mlp", 1024),
        ("vocab", 65),
        ("batch", 12),
        ("context", 256),
        ("threads", 2),
        ("cycles", 5),
        ("seed", 0),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    parser.add_argument("--json", type=Path, help="write every run here")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        serve(arguments.serve, arguments)
        return

    systems = SYSTEMS if arguments.compile else SYSTEMS[:-1]
    eager = systems.index("torch eager")
    processes = [start(index) for index in range(len(systems))]
    losses = [take_step(process)[0] for process in processes]  # also the warm-up
    if max(abs(loss - losses[eager]) for loss in losses) > SAME_LOSS * losses[eager]:
        sys.exit(f"error: the first losses differ: {dict(zip(systems, losses, strict=True))}")
    print(f"first loss: {losses[eager]:.6f} in all, within {SAME_LOSS:g}\n")

    seconds: list[list[float]] = [[] for _ in systems]
    order = [*range(len(systems)), *reversed(range(len(systems)))]
    for index in order * arguments.cycles:
        seconds[index].append(take_step(processes[index])[1])
    for process in processes:
        assert process.stdin
        process.stdin.close()
        process.wait()

    medians = [statistics.median(runs) for runs in seconds]
    rows: list[dict[str, Any]] = []
    print("| system | ms a step | tokens/s | time / torch eager |")
    print("|---|---|---|---|")
    for name, median, runs in zip(systems, medians, seconds, strict=True):
        speed = arguments.batch * arguments.context / median
        print(f"| {name} | {1e3 * median:.0f} | {speed:.0f} | {median / medians[eager]:.2f} |")
        rows.append({"system": name, "step_seconds": median, "tokens_per_s": speed, "runs": runs})
    if arguments.json:
        settings = {k: v for k, v in vars(arguments).items() if k not in ("json", "serve")}
        arguments.json.write_text(json.dumps({"settings": settings, "systems": rows}, indent=2))


if __name__ == "__main__":
    main()

"""What `xplm.cli.ahead` starts: it compiles the kernels that a command comes to last, and ends when its stdin does.

python -m xplm.cli.compile_ahead generate MODEL_TYPE POLICY BACKEND DEVICE
python -m xplm.cli.compile_ahead train ARCH POLICY BACKEND DEVICE
"""

import os
import sys
from dataclasses import replace
from threading import Thread

from xplm.backend import load_backend
from xplm.generate.engine import Engine
from xplm.kernels import PORTABLE
from xplm.kernels.fusions import FUSIONS
from xplm.models.decoder import param_specs
from xplm.models.miniature import POSITIONS, miniature
from xplm.numerics.tiny_models import tiny_config
from xplm.params import init_params
from xplm.runtime import Runtime, make_runtime

LAST = ("rms_norm_bwd", "add_rms_norm_bwd", "swiglu_bwd", "attention_bwd", "embedding_bwd")
"""What a step comes to last of the kernels of layers: with the optimizer's, about half of what there is to compile."""


def generate(rt: Runtime, model_type: str) -> None:
    """A token is decoded, as if there were one before it; then a prompt is read."""
    config = miniature(tiny_config({"model_type": model_type}))
    engine = Engine(rt, config, init_params(rt, param_specs(config), seed=0))
    for start, length in ((1, 1), (0, POSITIONS)):
        cache = engine.allocate(1, POSITIONS)
        cache.advance((start,))
        engine.feed(cache, [[0] * length])


def train(rt: Runtime, arch: str) -> None:
    """A step by portable kernels, but for those that come last; then one by fused kernels alone."""
    from xplm.cli.bench_train import trial_recipe  # a third of a second, which `generate` saves
    from xplm.train.architecture import make_config
    from xplm.train.random_step import RandomVocabulary, draw_batches, make_step

    recipe = trial_recipe(arch, (), seed=0)
    vocab_size = recipe.data.vocab_size or 0
    config = make_config(recipe.model, recipe.data.context, RandomVocabulary(vocab_size))
    table = PORTABLE | FUSIONS
    before_last = {name: kernel for name, kernel in table.items() if name not in LAST}
    batches = draw_batches(recipe, vocab_size)
    for kernels in ({**rt.kernels, **before_last}, rt.kernels):
        make_step(recipe, replace(rt, kernels=kernels), config, batches)()


TASKS = {"generate": generate, "train": train}


def leave_at_end_of_stdin() -> None:
    """Whoever started this is gone."""
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    Thread(target=leave_at_end_of_stdin, daemon=True).start()
    task, kind, policy, backend, device = sys.argv[1:]
    TASKS[task](make_runtime(load_backend(backend, device), policy), kind)

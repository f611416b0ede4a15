"""Attention whose q, k and v are clipped, against central differences.

A bound has a kink, which no entry may come near to while it is moved: the bound is put in the widest gap between
the entries' sizes, where about a tenth of them is above it.
"""

from dataclasses import replace

import numpy as np

from tests.tiny import change_mixers
from xplm.backend import load_backend
from xplm.gradients import Gradients
from xplm.layers.attention import attention_layer_bwd, attention_layer_fwd
from xplm.models.decoder import make_context, param_specs
from xplm.numerics.gradient_check import STEP, GradientError, check_gradients
from xplm.numerics.tiny_models import TINY_MODELS, draw_params, tiny_config
from xplm.runtime import make_runtime

NAME = "model.layers.0.self_attn"
B, T = 2, 4


def entries_of(rt, spec, params, x, context):
    """Sizes of the entries of q, k and v before they are clipped, sorted; one is as large as its bound at most."""
    seen = []

    def attention_fwd(q, k, v, *rest, **options):
        seen.extend(np.abs(a).ravel() for a in (q, k, v))
        return rt.ops.attention_fwd(q, k, v, *rest, **options)

    watched = replace(rt, kernels={**rt.kernels, "attention_fwd": attention_fwd})
    attention_layer_fwd(watched, spec, params, NAME, x, context)
    return np.sort(np.concatenate(seen))


def clipped_layer():
    """rt, spec, params, x and context of a layer without rotation, a bound in its spec."""
    rt = make_runtime(load_backend("numpy"), "fp64", "portable")
    config = tiny_config(TINY_MODELS["norms of all heads, cap"])
    config = change_mixers(config, rope=None)
    specs = {name: row for name, row in param_specs(config).items() if name.startswith(NAME)}
    params = draw_params(specs, seed=3)
    x = np.random.default_rng(3).standard_normal((B, T, config.hidden_size))
    context = make_context(rt, config, T)

    spec = config.blocks[0].mixer
    sizes = entries_of(rt, spec, params, x, context)
    tail = sizes[int(0.85 * len(sizes)) : int(0.95 * len(sizes))]
    widest = int(np.argmax(np.diff(tail)))
    assert tail[widest + 1] - tail[widest] > 20 * STEP, "no entry crosses the bound"
    return rt, replace(spec, clip=float(np.mean(tail[widest : widest + 2]))), params, x, context


def check_clipped() -> list[GradientError]:
    """The layer's errors: of its input and each parameter."""
    rt, spec, params, x, context = clipped_layer()

    def run():
        return attention_layer_fwd(rt, spec, params, NAME, x, context)

    y, saved = run()
    dy = np.random.default_rng(4).standard_normal(y.shape)
    grads = Gradients()
    dx = attention_layer_bwd(rt, spec, NAME, dy, saved, grads)
    arrays = {"x": x} | params
    return check_gradients(
        lambda: float(np.sum(run()[0] * dy)), arrays, {"x": dx} | grads.found, entries=6
    )

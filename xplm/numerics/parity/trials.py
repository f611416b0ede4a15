"""Random shapes and numbers, to look for false alarms on: cases of every op, and models of every family."""

from typing import Any

import numpy as np
from numpy.random import Generator

from xplm.config import DecoderConfig
from xplm.kernels.rope import HALVES, NEIGHBOURS
from xplm.numerics.check_layers import LAYERS, VARIANTS
from xplm.numerics.op_cases import IGNORE, OpCase
from xplm.numerics.parity.check_layers import check_layer
from xplm.numerics.parity.check_model import check_model
from xplm.numerics.parity.check_ops import check_case
from xplm.numerics.parity.check_optimizers import NAMES, check_optimizer
from xplm.numerics.parity.judge import BUG
from xplm.numerics.tiny_models import TINY_MODELS, tiny_config
from xplm.runtime import Runtime

DRAWS = 8


def random_case(op: str, rng: Generator) -> OpCase:
    """One case of an op: widths up to some hundreds, numbers of every size from 0.01 to 100."""
    return OpCase("random", *_ARGUMENTS[op](rng))


def _size(rng: Generator, largest: int) -> int:
    """From 1 to `largest`, small ones as likely as large ones."""
    return int(np.exp(rng.uniform(0.0, np.log(largest + 0.999))))


def _normal(rng: Generator, *shape: int) -> np.ndarray:
    return 10.0 ** rng.uniform(-2.0, 1.0) * (rng.standard_normal(shape) + rng.uniform(-1.0, 1.0))


def _leading(rng: Generator) -> tuple[int, ...]:
    return tuple(_size(rng, 6) for _ in range(int(rng.integers(1, 3))))


def _linear(rng: Generator) -> tuple[Any, ...]:
    C, N = _size(rng, 400), _size(rng, 40)
    bias = _normal(rng, N) if rng.random() < 0.5 else None
    return ((_normal(rng, *_leading(rng), C), _normal(rng, N, C), bias),)


def _norm(rng: Generator, n_params: int) -> tuple[Any, ...]:
    C = 1 + _size(rng, 300)
    params = [_normal(rng, C) for _ in range(n_params)]
    return (_normal(rng, *_leading(rng), C), *params), {"eps": float(10.0 ** rng.uniform(-6, -1))}


def _softmax(rng: Generator) -> tuple[Any, ...]:
    x = _normal(rng, *_leading(rng), _size(rng, 300))
    return ((x, rng.random(x.shape) < 0.7 if rng.random() < 0.5 else None),)


def _attention(rng: Generator) -> tuple[Any, ...]:
    B, K, G, T, D = (_size(rng, n) for n in (2, 3, 3, 40, 32))
    start = _size(rng, 20) - 1
    S = start + T
    q, k, v = (rng.standard_normal(s) for s in ((B, K * G, T, D), (B, K, S, D), (B, K, S, D)))
    first = None
    if rng.random() < 0.5:
        first = np.repeat(rng.integers(0, S, (B, 1)), T, axis=1)
    window = _size(rng, S) if rng.random() < 0.5 else None
    cap = float(rng.uniform(0.1, 4.0)) if rng.random() < 0.3 else None
    sinks = _normal(rng, K * G) if rng.random() < 0.3 else None
    options = {"start": start, "scale": D**-0.5, "window": window, "cap": cap}
    return (q, k, v, first, sinks), options


def _rope(rng: Generator) -> tuple[Any, ...]:
    B, H, T, half = (_size(rng, n) for n in (2, 4, 9, 32))
    angles = rng.uniform(0.0, 100.0, (B, 1, T, half))
    options = {"pairs": str(rng.choice([HALVES, NEIGHBOURS]))}
    return (_normal(rng, B, H, T, 2 * half), np.cos(angles), np.sin(angles)), options


def _pointwise(rng: Generator, n_arrays: int) -> tuple[Any, ...]:
    shape = (*_leading(rng), _size(rng, 100))
    return (tuple(_normal(rng, *shape) for _ in range(n_arrays)),)


def _dropout(rng: Generator) -> tuple[Any, ...]:
    rate = float(rng.uniform(0.0, 0.9))
    x = _normal(rng, *_leading(rng), _size(rng, 100))
    return (x, rng.random(x.shape) >= rate), {"rate": rate}


def _embedding(rng: Generator) -> tuple[Any, ...]:
    V = _size(rng, 500)
    return ((rng.integers(0, V, _leading(rng)), _normal(rng, V, _size(rng, 50))),)


def _loss(rng: Generator, *, has_head: bool) -> tuple[Any, ...]:
    N, V = _size(rng, 20), 1 + _size(rng, 400)
    targets = np.where(rng.random(N) < 0.2, IGNORE, rng.integers(0, V, N))
    options: dict[str, Any] = {
        "ignore_index": IGNORE,
        "label_smoothing": float(rng.choice([0.0, 0.1])),
        "z_loss": float(rng.choice([0.0, 1e-2])),
    }
    if not has_head:
        return (_normal(rng, N, V), targets), options
    options["logit_scale"] = float(rng.choice([1.0, 0.25]))
    options["logit_cap"] = 3.0 if rng.random() < 0.5 else None
    C = _size(rng, 64)
    bias = _normal(rng, V) if rng.random() < 0.5 else None
    return (_normal(rng, N, C), _normal(rng, V, C) / C, targets, bias), options


def _router(rng: Generator) -> tuple[Any, ...]:
    N, E = _size(rng, 20), _size(rng, 64)
    chosen = np.argsort(rng.random((N, E)), axis=1)[:, : _size(rng, E)]
    options = {
        "scores": str(rng.choice(["softmax", "sigmoid"])),
        "is_normalised": bool(rng.integers(2)),
        "factor": float(rng.choice([1.0, 2.5])),
    }
    return (_normal(rng, N, E), chosen), options


def _expert_linear(rng: Generator) -> tuple[Any, ...]:
    C, N, E = _size(rng, 200), _size(rng, 20), _size(rng, 8)
    counts = np.bincount(rng.integers(0, E, _size(rng, 20)), minlength=E)
    bias = _normal(rng, E, N) if rng.random() < 0.5 else None
    arrays = (_normal(rng, int(counts.sum()), C), _normal(rng, E, N, C), bias)
    return arrays, {"counts": tuple(counts.tolist())}


def _expert_sum(rng: Generator) -> tuple[Any, ...]:
    N, k = _size(rng, 10), _size(rng, 8)
    weights = _normal(rng, N, k) if rng.random() < 0.8 else None
    places = rng.permutation(N * k).reshape(N, k)
    return ((_normal(rng, N * k, _size(rng, 60)), places, weights),)


_ARGUMENTS: dict[str, Any] = {
    "embedding": _embedding,
    "linear": _linear,
    "rms_norm": lambda rng: _norm(rng, 1),
    "layer_norm": lambda rng: _norm(rng, 2),
    "rope": _rope,
    "softmax": _softmax,
    "attention": _attention,
    "swiglu": lambda rng: _pointwise(rng, 2),
    "gelu": lambda rng: _pointwise(rng, 1),
    "gelu_erf": lambda rng: _pointwise(rng, 1),
    "relu": lambda rng: _pointwise(rng, 1),
    "relu2": lambda rng: _pointwise(rng, 1),
    "clamped_swiglu": lambda rng: (*_pointwise(rng, 2), {"alpha": 1.702, "limit": 7.0}),
    "sigmoid_gate": lambda rng: _pointwise(rng, 2),
    "router": _router,
    "expert_linear": _expert_linear,
    "expert_sum": _expert_sum,
    "dropout": _dropout,
    "cross_entropy": lambda rng: _loss(rng, has_head=False),
    "linear_cross_entropy": lambda rng: _loss(rng, has_head=True),
}


def random_config(rng: Generator) -> DecoderConfig:
    """A model of one to three layers, at most 48 wide: a tiny model of any family, in sizes of its own."""
    tiny = TINY_MODELS[str(rng.choice(list(TINY_MODELS)))]
    names_layers = any(isinstance(value, list) for value in tiny.values())
    K, G, half = (_size(rng, n) for n in (3, 3, 4))
    sizes = {
        "vocab_size": 5 + _size(rng, 60),
        "hidden_size": K * G * 4 * half,
        "intermediate_size": 3 + _size(rng, 60),
        "num_attention_heads": K * G,
        "num_key_value_heads": K,
        "max_position_embeddings": 40,
    }
    if not names_layers:
        sizes["num_hidden_layers"] = int(rng.integers(1, 4))
    return tiny_config(tiny | sizes)


def clean_run(test: Runtime, reference: Runtime, seed: int) -> list[str]:
    """Everything that parity checks, on shapes and numbers of this seed: what it calls a bug, in words."""
    rng = np.random.default_rng(seed)
    alarms = []
    for op in _ARGUMENTS:
        case = random_case(op, rng)
        for found in check_case(test, reference, op, case, seed=seed):
            if found.verdict.kind == BUG:
                alarms.append(f"{op} {found.verdict.name}: {found.verdict.reason}")

    layer, variant = (str(rng.choice(list(names))) for names in (LAYERS, VARIANTS))
    comparison = check_layer(test, reference, layer, variant, draws=DRAWS, seed=seed)
    alarms += [f"{layer}: {fault}" for fault in comparison.faults(layer)]

    config = random_config(rng)
    model = check_model(test, reference, config, length=3 + _size(rng, 20), draws=DRAWS, seed=seed)
    alarms += [f"model: {fault}" for fault in model.faults]

    optimizer = str(rng.choice(list(NAMES)))
    found_steps = check_optimizer(test, reference, optimizer, config, draws=DRAWS, seed=seed)
    alarms += [f"{optimizer}: {v.name} {v.reason}" for v in found_steps if v.kind == BUG]
    return alarms

"""Every op, forward and back, on seeded numbers of a layer's sizes.

The table below is the one place that names the options of kernels.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from bits.arrays import Recorder

OTHER_NAMES = {"wide": "island"}
"""An option's name in one checkout -> its name in another."""

NEUTRAL = {"start": 0}
"""Values that mean the same where a kernel lacks the option."""

ISLANDS = {
    "rms_norm": "norm",
    "layer_norm": "norm",
    "softmax": "softmax",
    "attention": "softmax",
    "router": "softmax",
    "cross_entropy": "loss",
    "linear_cross_entropy": "loss",
}
"""The policy's part whose dtype an op takes as an option."""


class Call(NamedTuple):
    op: str
    case: str
    arrays: tuple[np.ndarray, ...]  # floats in float64
    options: Mapping[str, Any] = {}
    by_name: Mapping[str, np.ndarray] = {}  # arrays that are passed by name


def calls() -> Iterator[Call]:
    """Every op; several where a kernel has several paths."""
    rng = np.random.default_rng(24)
    n = rng.standard_normal

    def qkv(B: int, H: int, K: int, T: int, S: int, D: int) -> tuple[np.ndarray, ...]:
        return n((B, H, T, D)), n((B, K, S, D)), n((B, K, S, D))

    ids = rng.integers(0, 300, (2, 70))
    yield Call("embedding", "repeated", (ids % 40, n((300, 48))))
    yield Call("linear", "rows", (n((2, 70, 48)), n((88, 48))))
    yield Call("linear", "rows, bias", (n((2, 70, 48)), n((88, 48)), n(88)))
    yield Call("linear", "one row", (n((1, 1, 48)), n((88, 48))))
    yield Call("linear", "three rows, bias", (n((3, 1, 48)), n((88, 48)), n(88)))
    for rows in ((2, 70), (1, 1)):
        yield Call("rms_norm", f"{rows}", (n((*rows, 48)), n(48)), {"eps": 1e-5})
        yield Call("layer_norm", f"{rows}", (n((*rows, 48)), n(48), n(48)), {"eps": 1e-5})
        yield Call("swiglu", f"{rows}", (3 * n((*rows, 88)), n((*rows, 88))))
        for activation in ("gelu", "gelu_erf", "relu", "relu2"):
            yield Call(activation, f"{rows}", (3 * n((*rows, 88)),))
        clamp = {"alpha": 1.702, "limit": 7.0}
        yield Call("clamped_swiglu", f"{rows}", (6 * n((*rows, 88)), 6 * n((*rows, 88))), clamp)
        yield Call("sigmoid_gate", f"{rows}", (n((*rows, 1)), n((*rows, 88))))
        yield Call("dropout", f"{rows}", (n((*rows, 48)), rng.random((*rows, 48)) > 0.3), {"rate": 0.3})  # fmt: skip
        angles = np.arange(rows[1])[:, None] * 100.0 ** -np.linspace(0, 1, 8)
        tables = (np.cos(angles)[None, None], np.sin(angles)[None, None])
        yield Call("rope", f"{rows}", (n((rows[0], 4, rows[1], 16)), *tables))

    for N, counts in ((35, (30, 0, 22, 18)), (1, (0, 1, 0, 1))):
        chosen, places = rng.integers(0, 4, (N, 2)), rng.permutation(2 * N).reshape(N, 2)
        for scores in ("softmax", "sigmoid"):
            options = {"scores": scores, "is_normalised": True, "factor": 2.5}
            yield Call("router", f"{scores}, {N} tokens", (n((N, 4)), chosen), options)
        arrays = (n((2 * N, 48)), n((4, 88, 48)), n((4, 88)))
        yield Call("expert_linear", f"{N} tokens", arrays, {"counts": counts})
        yield Call("expert_sum", f"{N} tokens", (n((2 * N, 48)), places, n((N, 2))))

    yield Call("softmax", "rows", (4 * n((2, 3, 70, 70)),))
    yield Call("softmax", "mask", (n((2, 3, 70, 70)), np.tri(70, k=-1, dtype=bool)[None, None]))
    scale = {"scale": 0.25}
    yield Call("attention", "K < H", qkv(2, 4, 2, 70, 70, 16), scale | {"start": 0})
    yield Call("attention", "K = H", qkv(1, 3, 3, 5, 5, 12), scale | {"start": 0})
    yield Call("attention", "window", qkv(2, 4, 2, 70, 70, 16), scale | {"start": 0, "window": 9})
    yield Call("attention", "chunk", qkv(1, 4, 2, 20, 60, 16), scale | {"start": 40})
    yield Call("attention", "decode", qkv(2, 4, 2, 1, 60, 16), scale | {"start": 59})
    yield Call("attention", "decode, window", qkv(2, 4, 2, 1, 60, 16), scale | {"start": 59, "window": 9})  # fmt: skip
    first = np.broadcast_to(np.array([[0], [7]]), (2, 70)).copy()
    yield Call("attention", "padding", qkv(2, 4, 2, 70, 70, 16), scale | {"start": 0}, {"first": first})  # fmt: skip

    targets = rng.integers(0, 300, 70)
    targets[3] = -100
    loss = {"ignore_index": -100}
    for case, more in {"plain": {}, "both": {"label_smoothing": 0.1, "z_loss": 0.01}}.items():
        yield Call("cross_entropy", case, (n((70, 300)), targets), loss | more)
        yield Call("linear_cross_entropy", case, (n((70, 48)), n((300, 48)), targets), loss | more)


def record_ops(record: Recorder, group: str, rt: Any) -> None:
    """Outputs and gradients of every call under a runtime, in its compute dtype, and islands in theirs."""
    backend, xp = rt.backend, rt.backend.xp

    def to_device(host: np.ndarray, dtype: Any) -> Any:
        is_float = host.dtype.kind == "f"
        array = backend.from_host(host.astype(np.float32) if is_float else host)
        return xp.astype(array, dtype) if is_float else array

    for number, call in enumerate(calls()):
        if not hasattr(rt.ops, f"{call.op}_fwd"):
            continue
        forward, backward = (getattr(rt.ops, f"{call.op}_{way}") for way in ("fwd", "bwd"))
        options = dict(call.options)
        if call.op in ISLANDS:
            options["wide"] = getattr(rt.dtype, ISLANDS[call.op])
        taken = accepted(forward, options)
        if taken is None:
            continue
        tables = rt.dtype.rope if call.op == "rope" else rt.dtype.compute
        x, *others = call.arrays
        arrays = [to_device(x, rt.dtype.compute), *(to_device(other, tables) for other in others)]
        by_name = {name: to_device(host, tables) for name, host in call.by_name.items()}
        with backend.computing():
            y, saved = forward(*arrays, **by_name, **taken)
            dy = np.random.default_rng(number).standard_normal(backend.to_host(y).shape)
            gradients = backward(to_device(dy, y.dtype), saved)
        name = f"{group}/{call.op}/{call.case}"
        record.add(f"{name}/y", backend.to_host(y))
        for position, gradient in enumerate(gradients):
            if gradient is not None:
                record.add(f"{name}/gradient {position}", backend.to_host(gradient))


def accepted(kernel: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any] | None:
    """The options under the names that a kernel has for them; None: it lacks one that is not neutral.

    A case that a kernel does not take is on one side of a comparison only.
    """
    parameters = inspect.signature(kernel).parameters
    taken = {}
    for name, value in options.items():
        known = [own for own in (name, OTHER_NAMES.get(name)) if own in parameters]
        if known:
            taken[known[0]] = value
        elif NEUTRAL.get(name) != value:
            return None
    return taken

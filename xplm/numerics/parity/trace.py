"""A runtime whose every kernel call is judged on the spot.

Layers reach kernels through the runtime's table only, so a wrapped table sees each call of a whole model, forward and
backward. A call's inputs are what the test's own earlier ops made of the numbers; they are widened, given to the
reference's kernel and to the op's definition, and the call's outputs are judged by its own bound. An error that an
earlier op made is therefore never charged to a later one, and the first call with a bug is the first op at fault.

Fusions are not in that table, so layers take their ops one by one; what holds a fusion to its ops is its own test.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from xplm.numerics.op_cases import OPS
from xplm.numerics.parity.bounds import CENTRE_ROUNDOFF
from xplm.numerics.parity.expected import Expected
from xplm.numerics.parity.judge import BUG, Verdict, bug, judge
from xplm.numerics.parity.op_bounds import OP_BOUNDS
from xplm.numerics.parity.rounded import to_host
from xplm.precision import HOST_DTYPES
from xplm.runtime import Runtime
from xplm.typing import Array

TUNING = ("query_rows",)
"""Options of the portable kernels alone, which change no result."""


@dataclass
class Call:
    """One call of a kernel."""

    op: str
    is_backward: bool
    place: str  # the parameter that it reads, or the last one that was read before
    inputs: dict[str, np.ndarray | None]  # by argument; "dy" alone in a backward call
    options: dict[
        str, Any
    ]  # a forward's, dtypes as NumPy's; a backward's holds "forward", the call it undoes
    outputs: dict[str, np.ndarray]  # in the dtypes that they were returned in
    radii: dict[str, np.ndarray]  # of each output before its last rounding, float64
    verdicts: list[Verdict]

    @property
    def label(self) -> str:
        """As in "linear backward at model.layers.0.mlp.up_proj"."""
        way = "backward" if self.is_backward else "forward"
        return f"{self.op} {way}" + (f" at {self.place}" if self.place else "")

    @property
    def is_wrong(self) -> bool:
        """Whether an output is a bug."""
        return any(v.kind == BUG for v in self.verdicts)


@dataclass
class Trace:
    """The calls of a traced runtime, in order."""

    calls: list[Call] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)  # of parameters, by the array's identity
    kept: list[Any] = field(default_factory=list)  # keeps identities from being given out twice
    of_saved: dict[int, tuple[int, Any]] = field(default_factory=dict)
    place: str = ""

    def name_params(self, params: Mapping[str, Array]) -> None:
        """Say which parameters are about to be read."""
        self.kept.append(dict(params))
        self.names |= {id(array): name.rpartition(".")[0] for name, array in params.items()}

    def enter(self, arrays: tuple[Array | None, ...]) -> None:
        """Find out where in the model a call is."""
        for array in arrays:
            self.place = self.names.get(id(array), self.place)


def traced(test: Runtime, reference: Runtime) -> tuple[Runtime, Trace]:
    """`test` with kernels that are judged at each call.

    Args:
        test: what is under test.
        reference: a float64 runtime, whose kernels errors are measured from.

    Returns:
        A runtime to run anything with, and the trace that it fills.
    """
    trace = Trace()
    table: dict[str, Callable[..., Any]] = {}
    for op in OPS:
        table[f"{op}_fwd"] = _forward(trace, test, reference, op)
        table[f"{op}_bwd"] = _backward(trace, test, reference, op)
    return replace(test, kernels=table), trace


def _forward(trace: Trace, test: Runtime, reference: Runtime, op: str) -> Callable[..., Any]:
    kernel, again = test.kernels[f"{op}_fwd"], reference.kernels[f"{op}_fwd"]
    names = OPS[op].arguments

    def call(*arrays: Array | None, **options: Any) -> tuple[Array, Any]:
        y, saved = kernel(*arrays, **options)
        trace.enter(arrays)
        inputs = [None if array is None else to_host(test, array) for array in arrays]
        known = {k: host_option(test, v) for k, v in options.items() if k not in TUNING}

        reference_y, reference_saved = again(
            *[widened(reference, array) for array in inputs], **reference_options(reference, known)
        )
        expected = OP_BOUNDS[op].forward(inputs, known)
        host_y = to_host(test, y)
        verdict = judge_both("y", host_y, expected, to_host(reference, reference_y))
        trace.calls.append(
            Call(
                op, False, trace.place, dict(zip(names, inputs, strict=False)), known,
                {"y": host_y}, {"y": expected.ball.rad}, [verdict],
            )
        )  # fmt: skip
        trace.kept.append((saved, arrays))
        trace.of_saved[id(saved)] = (len(trace.calls) - 1, reference_saved)
        return y, saved

    return call


def _backward(trace: Trace, test: Runtime, reference: Runtime, op: str) -> Callable[..., Any]:
    kernel, again = test.kernels[f"{op}_bwd"], reference.kernels[f"{op}_bwd"]
    names = OPS[op].arguments

    def call(dy: Array, saved: Any, **tuning: Any) -> tuple[Array | None, ...]:
        gradients = kernel(dy, saved, **tuning)
        index, reference_saved = trace.of_saved[id(saved)]
        forward = trace.calls[index]
        host_dy = to_host(test, dy)
        inputs = [*forward.inputs.values()]

        reference_gradients = again(widened(reference, host_dy), reference_saved)
        expected = OP_BOUNDS[op].backward(host_dy, inputs, forward.options)
        outputs, radii, verdicts = {}, {}, []
        rest = (*gradients, *[None] * len(names))
        for name, gradient, wanted, measured in zip(
            names, rest, [*expected, *[None] * len(names)], (*reference_gradients, *[None] * len(names)),
            strict=False,
        ):  # fmt: skip
            if wanted is None and gradient is None:
                continue
            if wanted is None or gradient is None:
                array = host_dy if gradient is None else to_host(test, gradient)
                verdicts.append(
                    bug(
                        f"d{name}",
                        array,
                        "is missing" if gradient is None else "has no business here",
                    )
                )
                continue
            outputs[f"d{name}"] = to_host(test, gradient)
            radii[f"d{name}"] = wanted.ball.rad
            verdicts.append(
                judge_both(f"d{name}", outputs[f"d{name}"], wanted, to_host(reference, measured))
            )
        trace.calls.append(
            Call(
                op, True, forward.place, {"dy": host_dy}, {"forward": index}, outputs, radii, verdicts,
            )
        )  # fmt: skip
        return gradients

    return call


def judge_both(name: str, test: np.ndarray, expected: Expected, reference: np.ndarray) -> Verdict:
    """The verdict on an op's output; a reference that is itself outside of the definition is a bug too."""
    ball = expected.ball
    if reference.shape != ball.mid.shape:
        return bug(name, test, f"the reference's is {reference.shape}; must be {ball.mid.shape}")
    verdict = judge(name, test, expected, reference)
    allowed = ball.rad + 2.0 * CENTRE_ROUNDOFF * np.abs(ball.mid)
    off = np.abs(reference - ball.mid)
    n_off = int(np.sum((off > allowed) & np.isfinite(ball.mid)))
    if verdict.kind != BUG and n_off:
        return bug(name, test, f"the reference's own is off in {n_off} of {off.size} numbers")
    return verdict


def is_float(array: np.ndarray) -> bool:
    """Whether an array of the host holds numbers that can be rounded."""
    return array.dtype in HOST_DTYPES.values()


def widened(reference: Runtime, array: np.ndarray | None) -> Array | None:
    """A host array on the reference's device, floats in float64."""
    if array is None:
        return None
    return reference.backend.from_host(
        array.astype(np.float64) if is_float(array) else array.copy()
    )


def host_option(rt: Runtime, value: Any) -> Any:
    """An option as the host knows it: a backend's dtype object becomes NumPy's."""
    if value is None or isinstance(value, int | float | str | tuple | np.dtype):
        return value
    for name, dtype in rt.backend.dtypes.items():
        if dtype == value:
            return HOST_DTYPES[name]
    return value


def reference_options(reference: Runtime, options: Mapping[str, Any]) -> dict[str, Any]:
    """The same options for a kernel that computes in float64."""
    return {
        name: reference.backend.dtypes["float64"] if isinstance(value, np.dtype) else value
        for name, value in options.items()
    }

"""What lies between the ops: the same layers once more, with the ops' outputs played back.

A model is kernels and what layers do between them: heads split and joined, residuals added, tables chosen, keys
cached. The replay runs the layers on NumPy, in the test's own formats, with a table whose kernels compute nothing: each
returns what the traced run's kernel of that place returned. Whatever the layers hand to the next op must then be what
the test handed to it. The first call that was handed something else follows the fault.

What layers compute themselves is sums, and products of two arrays. One such step is rounded correctly by every
library, so both sides agree to the last bit unless one keeps more digits or flushes small numbers; each array may
therefore be one spacing further off than the last of its shape was, which a stream of residuals hands on. A reduction
over n terms, as of the losses of a batch, may be off by gamma_n n max|term| for the order of its terms.

Both sides run the same layer source, so a wrong formula in it is for `xplm gradcheck` and the comparisons with other
implementations to find. What this finds is what one array library, device or format makes of it.
"""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from xplm.numerics.op_cases import OPS
from xplm.numerics.parity.bounds import Arithmetic, underflow, unit_roundoff
from xplm.numerics.parity.rounded import to_host
from xplm.numerics.parity.trace import TUNING, Call, Trace, host_option, is_float
from xplm.runtime import Runtime
from xplm.typing import Array


class Stream:
    """How far the two sides may have drifted apart in what layers add up, forward and backward apart."""

    def __init__(self) -> None:
        """Nothing has been added yet."""
        self._drift: dict[tuple[tuple[int, ...], bool], Any] = {}  # last difference, by shape
        self._last: dict[bool, np.ndarray] = {}  # absolute values that an op saw or made last

    def allowed(self, own: np.ndarray, size: np.ndarray, is_backward: bool) -> Any:
        """The most that an array may differ by; size is its entries' absolute value."""
        u, key = unit_roundoff(own.dtype), (own.shape, is_backward)
        if key in self._drift or is_backward not in self._last:
            return self._drift.get(key, 0.0) + 2.0 * u * size + underflow(own.dtype)
        terms = self._last[is_backward]
        n = max(1, terms.size // max(1, own.size))
        return Arithmetic(own.dtype).gamma(n) * n * np.max(terms, initial=0.0) + 2.0 * u * size

    def remember(self, arrays: list[np.ndarray | None], is_backward: bool) -> None:
        """What an op was given and what it made: their shapes are those of no reduction."""
        for array in arrays:
            if array is not None and is_float(array):
                self._drift.setdefault((array.shape, is_backward), 0.0)
                self._last[is_backward] = np.abs(array.astype(np.float64))

    def drifted(self, own: np.ndarray, by: np.ndarray, is_backward: bool) -> None:
        """Note a difference that was allowed."""
        self._drift[own.shape, is_backward] = by


class Replay:
    """Plays a trace's outputs back, and notes where the inputs are not the trace's."""

    def __init__(self, trace: Trace) -> None:
        """Begin with the first call."""
        self.trace = trace
        self.position = 0
        self.stream = Stream()
        self.faults: list[tuple[int, str]] = []  # (call, what differs)
        self.of_saved: dict[int, int] = {}
        self.kept: list[Any] = []

    def next_call(self, op: str, is_backward: bool) -> Call | None:
        """The traced call that this one repeats; None, and a fault, if there was another."""
        calls = self.trace.calls
        if self.position >= len(calls):
            self.fault(f"{op} is not called")
            return None
        call = calls[self.position]
        if (call.op, call.is_backward) != (op, is_backward):
            self.fault(f"{call.label} is called where {op} should be")
            return None
        return call

    def fault(self, what: str) -> None:
        """Note that the call at hand was handed something else."""
        self.faults.append((self.position, what))

    def compare(
        self, name: str, test: np.ndarray | None, own: np.ndarray | None, is_backward: bool
    ) -> None:
        """One input of the call at hand."""
        problem = difference(test, own, self.stream, is_backward)
        if problem:
            self.fault(f"{name} {problem}")


class DivergedError(Exception):
    """The test's calls are not those that the layers make, so there is nothing to play back."""


def difference(
    test: np.ndarray | None, own: np.ndarray | None, stream: Stream, is_backward: bool
) -> str:
    """How two arrays differ by more than the rounding of sums, in words; "" if they do not."""
    if test is None or own is None:
        return "" if test is own else f"is {'absent' if test is None else 'there'}"
    if test.shape != own.shape or (is_float(own) and test.dtype != own.dtype):
        return f"is {test.dtype} {test.shape}; must be {own.dtype} {own.shape}"
    if np.array_equal(test, own, equal_nan=is_float(own)):
        return ""
    if not is_float(own):
        return f"differs in {int(np.sum(test != own))} of {own.size} numbers"
    a, b = test.astype(np.float64), own.astype(np.float64)
    allowed = stream.allowed(own, np.maximum(np.abs(a), np.abs(b)), is_backward)
    wrong = ~(np.abs(a - b) <= allowed) & ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if not wrong.any():
        stream.drifted(own, np.abs(a - b), is_backward)
        return ""
    return f"differs in {int(np.sum(wrong))} of {own.size} numbers, by {np.max(np.abs(a - b)):.3g}"


def replaying(numpy_runtime: Runtime, trace: Trace) -> tuple[Runtime, Replay]:
    """A runtime whose kernels play a trace back, and what it finds."""
    replay = Replay(trace)
    table: dict[str, Callable[..., Any]] = {}
    for op in OPS:
        table[f"{op}_fwd"] = _forward(numpy_runtime, replay, op)
        table[f"{op}_bwd"] = _backward(numpy_runtime, replay, op)
    return replace(numpy_runtime, kernels=table), replay


def _forward(rt: Runtime, replay: Replay, op: str) -> Callable[..., Any]:
    names = OPS[op].arguments

    def call(*arrays: Array | None, **options: Any) -> tuple[Array, Any]:
        traced = replay.next_call(op, False)
        if traced is None:
            raise DivergedError
        inputs = [None if array is None else to_host(rt, array) for array in arrays]
        for name, own in zip(names, inputs, strict=False):
            replay.compare(name, traced.inputs.get(name), own, False)
        known = {k: host_option(rt, v) for k, v in options.items() if k not in TUNING}
        for name in sorted(known | traced.options):
            if traced.options.get(name) != known.get(name):
                replay.fault(f"{name} is {traced.options.get(name)}; must be {known.get(name)}")
        replay.stream.remember([*inputs, *traced.outputs.values()], False)
        saved = SimpleNamespace(**dict(zip(names, arrays, strict=False)))
        replay.kept.append(saved)
        replay.of_saved[id(saved)] = replay.position
        replay.position += 1
        return traced.outputs["y"], saved

    return call


def _backward(rt: Runtime, replay: Replay, op: str) -> Callable[..., Any]:
    names = OPS[op].arguments

    def call(dy: Array, saved: Any, **tuning: Any) -> tuple[Array | None, ...]:
        traced = replay.next_call(op, True)
        if traced is None:
            raise DivergedError
        host_dy = to_host(rt, dy)
        replay.compare("dy", traced.inputs["dy"], host_dy, True)
        undone = replay.of_saved[id(saved)]
        if traced.options["forward"] != undone:
            replay.fault(f"undoes call {traced.options['forward']}; must undo call {undone}")
        replay.stream.remember([host_dy, *traced.outputs.values()], True)
        replay.position += 1
        return tuple(traced.outputs.get(f"d{name}") for name in names)

    return call

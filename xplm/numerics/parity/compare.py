"""One piece of work on both sides: every op judged, what lies between them judged, and the results end to end.

`work` is a function of a runtime that uses nothing but that runtime: a layer, a pass through a model. It runs

    traced      on the test's side, each kernel call judged by its own bound (`trace`)
    replayed    on NumPy, with the test's outputs played back: are the inputs of each op what layers must make of them?
    reference   on the reference's side, in float64 throughout
    perturbed   the same, a few times, with every op's output moved at random by as much as rounding may move it

The perturbed runs measure how roundings grow on their way to each result, cancel where they must, and what the whole is
worth: a result's norm of error is held to FACTOR times the root mean square over the runs. If errors are as independent
as the ops' own, the ratio squared has an F distribution; in the worst case, a result of one number, a ratio above 8 has
the probability 6e-7 with DRAWS = 16 and 4e-5 with 8. Ops are never excused by it: it judges what ops and wiring leave
over.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias, TypeGuard

import numpy as np

from xplm.backend import load_backend
from xplm.numerics.op_cases import OPS
from xplm.numerics.parity.bounds import unit_roundoff
from xplm.numerics.parity.judge import (
    BUG,
    EXACT,
    ROUNDING,
    Verdict,
    bug,
    half_spacing,
    relative_error,
)
from xplm.numerics.parity.replay import DivergedError, difference, replaying
from xplm.numerics.parity.rounded import formats_of, to_device, to_host
from xplm.numerics.parity.trace import Call, Trace, is_float, traced
from xplm.precision import PolicyDtypes
from xplm.runtime import Runtime, make_runtime
from xplm.typing import Array

DRAWS = 16
FACTOR = 8.0

CAST = ("x", "k", "v")
"""Arguments that layers cast on their way: to the cache, or to the loss. Where that is narrower, it rounds."""

Work: TypeAlias = Callable[[Runtime, Callable[[Mapping[str, Array]], None]], dict[str, Array]]
"""work(rt, name_params) -> results by name; it tells name_params which parameters it is about to read."""


class Fault(NamedTuple):
    """Something wrong, and where."""

    where: str  # the op, or what lies between two
    what: str


class Drift(NamedTuple):
    """How far one op's output in the whole run is from the reference's, and how far rounding would take it."""

    label: str
    is_backward: bool
    error: float  # norm of the difference over the norm
    expected: float  # the same of the perturbed runs, root mean square
    is_wrong: bool


class Comparison(NamedTuple):
    """What comparing one piece of work gave."""

    calls: list[Call]
    found: list[Fault]  # of ops and of what lies between them, in the order of execution
    results: list[Verdict]  # end to end
    drifts: list[Drift]  # one a kernel call

    def faults(self, whole: str) -> list[Fault]:
        """What was found, or else the results that are wrong with no op at fault: then it is `whole` that is."""
        ends = [v for v in self.results if v.kind == BUG]
        return self.found or [Fault(whole, f"{v.name} {v.reason}") for v in ends]


def run(rt: Runtime, work: Work, trace: Trace | None = None) -> dict[str, Any]:
    """Do a piece of work on one side; its results, on the host."""
    results = work(rt, trace.name_params if trace else lambda params: None)
    return {name: to_host(rt, array) for name, array in results.items()}


@np.errstate(all="ignore")
def compare(
    work: Work,
    test: Runtime,
    reference: Runtime,
    *,
    truth: Work | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """Run a piece of work on both sides, and judge all of it.

    Args:
        work: what to do.
        test: the runtime under test.
        reference: a float64 runtime.
        truth: what the reference does instead, where another way must lead to the same results; None: `work`.
        draws: perturbed runs.
        seed: of the perturbations.
    """
    rt, trace = traced(test, reference)
    results = run(rt, work, trace)
    found = [
        (index, 1, Fault(call.label, f"{v.name}: {v.reason}"))
        for index, call in enumerate(trace.calls)
        for v in call.verdicts
        if v.kind == BUG
    ]
    found += [(index, 0, fault) for index, fault in _between(work, test, trace, results)]
    faults = [fault for _, _, fault in sorted(found, key=lambda f: f[:2])]

    noises = [_noise(call, formats_of(test)) for call in trace.calls]
    plain, exact_outputs = _perturbed(work, reference, noises, None)
    spread: dict[str, float] = dict.fromkeys(plain, 0.0)
    growth = np.zeros(len(trace.calls))
    for draw in range(draws):
        rng = np.random.default_rng([seed, draw])
        moved, outputs = _perturbed(work, reference, noises, rng)
        for name in plain:
            spread[name] += norm(moved[name], plain[name]) ** 2 / draws
        if len(outputs) == len(exact_outputs) == len(growth):
            growth += [norm(a, b) ** 2 / draws for a, b in zip(outputs, exact_outputs, strict=True)]

    right = plain if truth is None else run(reference, truth)
    verdicts = [
        judge_result(name, results[name], right[name], spread[name] ** 0.5) for name in right
    ]
    wrong = {index for index, _, _ in found}
    drifts = [
        Drift(
            call.label,
            call.is_backward,
            _relative_norm(_first(call.outputs), reference_output),
            float(growth[index] ** 0.5 / (np.linalg.norm(reference_output.ravel()) or 1.0)),
            index in wrong,
        )
        for index, (call, reference_output) in enumerate(
            zip(trace.calls, exact_outputs, strict=False)
        )
    ]
    return Comparison(trace.calls, faults, verdicts, drifts)


def _between(
    work: Work, test: Runtime, trace: Trace, results: Mapping[str, Any]
) -> list[tuple[int, Fault]]:
    """What the layers did wrong between ops, each with the call that follows it."""
    host = make_runtime(
        load_backend(), test.policy, "portable"
    )  # on NumPy's arrays, as in the trace
    rt, replay = replaying(host, trace)
    calls = trace.calls
    try:
        own = run(rt, work)
    except DivergedError:
        own = {}
    if own and replay.position < len(calls):
        replay.fault("is called once too often")

    found = []
    for index, what in replay.faults:
        before = calls[index - 1].label if index else "the beginning"
        after = calls[index].label if index < len(calls) else "the end"
        found.append((index, Fault(f"between {before} and {after}", f"{after}: {what}")))
    for name, array in own.items():
        problem = difference(results[name], array, replay.stream, name.startswith("d"))
        if problem:
            last = calls[-1].label
            found.append((len(calls), Fault(f"between {last} and the end", f"{name} {problem}")))
    return found


class _Noise(NamedTuple):
    """The most that rounding may have moved each number of one call, by the array's name."""

    inputs: dict[str, np.ndarray]  # of those that layers cast to something narrower on their way
    outputs: dict[str, np.ndarray]


def _noise(call: Call, formats: PolicyDtypes) -> _Noise:
    def is_cast(array: np.ndarray | None) -> TypeGuard[np.ndarray]:
        return (
            array is not None
            and is_float(array)
            and unit_roundoff(array.dtype) > unit_roundoff(formats.compute)
        )

    given = {name: call.inputs.get(name) for name in CAST}
    sizes = {name: radius + half_spacing(call.outputs[name]) for name, radius in call.radii.items()}
    return _Noise(
        {name: half_spacing(array) for name, array in given.items() if is_cast(array)},
        {name: np.where(np.isfinite(size), size, 0.0) for name, size in sizes.items()},
    )


def _perturbed(
    work: Work,
    reference: Runtime,
    noises: Sequence[_Noise],
    rng: np.random.Generator | None,
) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """The reference's results, and each call's first output, with noise as large as the test's roundings may be.

    Args:
        work: what to do.
        reference: a float64 runtime.
        noises: of each of the test's calls, in order.
        rng: draws the noise; None: there is none.
    """
    outputs: list[np.ndarray] = []
    position = 0

    def moved(array: Array, size: np.ndarray | None) -> Array:
        if rng is None or size is None or size.shape != array.shape:
            return array
        host = to_host(reference, array)
        return to_device(reference, host + rng.uniform(-1.0, 1.0, host.shape) * size)

    def wrap(name: str, names: tuple[str, ...]) -> Callable[..., Any]:
        kernel = reference.kernels[name]
        is_backward = name.endswith("_bwd")

        def call(*arrays: Array | None, **options: Any) -> Any:
            nonlocal position
            noise = noises[position] if position < len(noises) else _Noise({}, {})
            position += 1
            if not is_backward:
                arrays = tuple(
                    None if array is None else moved(array, noise.inputs.get(argument))
                    for array, argument in zip(arrays, names, strict=False)
                )
                y, saved = kernel(*arrays, **options)
                y = moved(y, noise.outputs.get("y"))
                outputs.append(to_host(reference, y))
                return y, saved
            gradients = tuple(
                None if gradient is None else moved(gradient, noise.outputs.get(f"d{argument}"))
                for argument, gradient in zip(names, kernel(*arrays, **options), strict=False)
            )
            outputs.append(to_host(reference, next(g for g in gradients if g is not None)))
            return gradients

        return call

    table = {
        f"{op}_{way}": wrap(f"{op}_{way}", row.arguments)
        for op, row in OPS.items()
        for way in ("fwd", "bwd")
    }
    return run(replace(reference, kernels=table), work), outputs


def judge_result(name: str, test: np.ndarray, plain: np.ndarray, spread: float) -> Verdict:
    """The norm of a result's error, against FACTOR times what the perturbed runs moved it by (root mean square)."""
    if test.shape != plain.shape or not is_float(test):
        return bug(name, test, f"is {test.dtype} {test.shape}; must be {plain.shape}")
    bound = FACTOR * spread
    bound += float(np.linalg.norm(half_spacing(test).ravel()))  # the result's own last rounding
    distance = norm(test, plain)
    share = distance / bound if bound > 0.0 else (0.0 if distance == 0.0 else np.inf)
    error = relative_error(test, plain)
    shape, dtype = test.shape, str(test.dtype)
    if not share <= 1.0:
        reason = f"is off by {distance:.3g} (norm); rounding explains {bound:.3g}"
        return Verdict(name, BUG, share, error, shape, dtype, reason)
    return Verdict(name, ROUNDING if distance else EXACT, share, error, shape, dtype)


def _first(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    return next(iter(outputs.values()))


def norm(a: np.ndarray, b: np.ndarray) -> float:
    """The Euclidean norm of a difference."""
    return float(np.linalg.norm((a.astype(np.float64) - b.astype(np.float64)).ravel()))


def _relative_norm(test: np.ndarray, reference: np.ndarray) -> float:
    if test.shape != reference.shape:
        return float("inf")
    return norm(test, reference) / (float(np.linalg.norm(reference.ravel())) or 1.0)

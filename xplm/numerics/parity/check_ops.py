"""Every op alone, forward and backward, on its cases."""

from typing import Any, NamedTuple

import numpy as np

from xplm.numerics.check_ops import accepted
from xplm.numerics.op_cases import OPS, OpCase, op_cases
from xplm.numerics.parity.bounds import wide_of
from xplm.numerics.parity.judge import Verdict
from xplm.numerics.parity.rounded import formats_of, to_device, to_host
from xplm.numerics.parity.trace import traced
from xplm.runtime import Runtime
from xplm.typing import Array

ISLANDS = {
    "rms_norm": "norm",
    "layer_norm": "norm",
    "softmax": "softmax",
    "attention": "softmax",
    "router": "softmax",
    "cross_entropy": "loss",
    "linear_cross_entropy": "loss",
}
"""The part of the policy that names the dtype of an op's island."""

PARTS = {
    ("rope", "cos"): "rope",
    ("rope", "sin"): "rope",
    ("cross_entropy", "x"): "loss",
    ("router", "logits"): "softmax",
    ("expert_sum", "weights"): "softmax",
    ("sigmoid_gate", "gate"): "softmax",
}
"""Arguments that are neither parameters nor activations: the part of the policy that they are stored in."""

PARAMS = ("weight", "bias", "sinks")


class OpVerdict(NamedTuple):
    case: str  # its label
    is_backward: bool
    verdict: Verdict


def check_op(test: Runtime, reference: Runtime, op: str, *, seed: int = 0) -> list[OpVerdict]:
    """One op on each of its cases; a verdict for its result and one for each gradient."""
    return [
        verdict
        for case in op_cases(op, seed)
        for verdict in check_case(test, reference, op, case, seed=seed)
    ]


@np.errstate(all="ignore")
def check_case(
    test: Runtime, reference: Runtime, op: str, case: OpCase, *, seed: int = 0
) -> list[OpVerdict]:
    """One op on one case, whose numbers are first rounded to the formats that the test's policy gives them."""
    rt, trace = traced(test, reference)
    arrays = [
        None if array is None else round_to_policy(test, op, name, array)
        for name, array in zip(OPS[op].arguments, case.args, strict=False)
    ]
    options: dict[str, Any] = dict(case.options)
    if op in ISLANDS:
        options["island"] = getattr(test.dtype, ISLANDS[op])

    forward, backward = f"{op}_fwd", f"{op}_bwd"
    y, saved = rt.kernels[forward](
        *arrays, **options, **accepted(test.kernels[forward], case.tuning)
    )
    host = to_host(test, y)
    dtype = wide_of(host.dtype) if ISLANDS.get(op) == "loss" else host.dtype
    dy = np.random.default_rng(seed).standard_normal(host.shape).astype(dtype)
    rt.kernels[backward](
        to_device(test, dy), saved, **accepted(test.kernels[backward], case.tuning)
    )
    return [
        OpVerdict(case.label, call.is_backward, verdict)
        for call in trace.calls
        for verdict in call.verdicts
    ]


def round_to_policy(test: Runtime, op: str, name: str, array: np.ndarray) -> Array:
    """An argument on the test's device, a float in the format that its part of the policy has."""
    if array.dtype != np.float64:
        return to_device(test, array)
    part = PARTS.get((op, name), "param" if name in PARAMS else "compute")
    return to_device(test, array.astype(getattr(formats_of(test), part)))

"""Every fault, where the doctor must find it, and what the work-around that helps would be without its point."""

from collections.abc import Mapping
from typing import NamedTuple

from tests.numerics.doctor import faults
from tests.numerics.doctor.faults import Fault

K = "xplm/kernels"
HERE = "__import__('tests.numerics.doctor.faults', fromlist=[''])"
FLOATS = ("float32", "bfloat16", "float16")

Naive = tuple[str, str, str]
"""(path, what the source says, what it would say without the work-around)."""


class Planted(NamedTuple):
    says: str
    faults: Mapping[str, Fault]  # by the function's name
    labels: tuple[str, ...]  # the probes that must find it, and no others may
    naive: Naive | None  # None: there is no work-around, and the gap must be open
    policy: str = "fp32"  # that the fault is met in


def _each(name: str, dtypes: tuple[str, ...] = FLOATS) -> tuple[str, ...]:
    return tuple(f"{dtype} {name}" for dtype in dtypes)


def _all(fault: Fault, *names: str) -> dict[str, Fault]:
    return dict.fromkeys(names, fault)


NARROW_LINEAR = (f"{K}/linear.py", "wide = wide_dtype(x, xp)", "wide = x.dtype")
SLOW_LINEAR = (
    f"{K}/linear.py",
    "y = rows @ cast(weight, wide).T",
    "y = rows @ cast(weight, wide).T; cast(rows, x.dtype) @ weight.T",
)
NARROW_ATTENTION = (f"{K}/attention.py", "sums = wide_dtype(q, xp)", "sums = q.dtype")
NARROW_NORM = (f"{K}/rms_norm.py", "island = island or wide_dtype(x, xp)", "island = x.dtype")
UNCAST_LINEAR = (f"{K}/linear.py", "xp.reshape(cast(y, x.dtype), (*x", "xp.reshape(y, (*x")
GREEDY = "return int(np.argmax(logits))"
SAMPLING = "xplm/generate/sampling.py"
ON_DEVICE = (
    "xplm/generate/engine.py",
    "last[is_last] = self._to_host(logits)[is_last, -1]",
    "self.rt.backend.xp.argsort(logits); last[is_last] = self._to_host(logits)[is_last, -1]",
)

ROUTED = [
    Planted(
        "batched bfloat16 products raise",
        {"matmul": faults.batched_bfloat16_raises},
        _each("product, batched", ("bfloat16",))
        + _each("product's sums", ("bfloat16",))
        + _each("product's speed, batched", ("bfloat16",)),
        NARROW_ATTENTION,
        "bf16",
    ),
    Planted(
        "float16 products are wrong",
        {"matmul": faults.wrong_product},
        _each("product, 2-D", ("float16",))
        + _each("product, batched", ("float16",))
        + _each("product's sums", ("float16",)),
        NARROW_LINEAR,
        "fp16",
    ),
    Planted(
        "products are accumulated in 16 bits",
        {"matmul": faults.narrow_sums},
        _each("product's sums", ("bfloat16", "float16")),
        NARROW_LINEAR,
        "bf16",
    ),
    Planted(
        "products drift to float64",
        {"matmul": faults.product_in_float64},
        _each("product's dtype", ("float16",)),
        UNCAST_LINEAR,
        "fp16",
    ),
    Planted(
        "a Python number counts as float64",
        _all(faults.drift_beside_a_number, "add", "sub", "mul", "truediv"),
        _each("beside a Python number", ("float16",)),
        UNCAST_LINEAR,
        "fp16",
    ),
    Planted(
        "functions drift to float32",
        _all(faults.drift_through, "exp", "sum", "mean", "max"),
        _each("through functions", ("float16",)),
        UNCAST_LINEAR,
        "fp16",
    ),
    Planted(
        "a row with -inf has a finite maximum",
        _all(faults.extreme_without_infinities, "max", "min"),
        _each("max and min"),
        (
            f"{K}/softmax.py",
            "scores = xp.where(visible, scores, lowest)",
            "scores = xp.where(visible, scores, -float('inf'))",
        ),
    ),
    Planted(
        "a row with -inf has its largest behind its end",
        _all(faults.argument_without_infinities, "argmax", "argmin"),
        _each("argmax and argmin"),
        (
            SAMPLING,
            GREEDY,
            f"return int({HERE}.argument_without_infinities(np.argmax, logits, axis=-1))",
        ),
    ),
    Planted(
        "of equals, the last is the largest",
        _all(faults.last_of_equals, "argmax", "argmin"),
        _each("argmax and argmin"),
        (SAMPLING, GREEDY, f"return int({HERE}.last_of_equals(np.argmax, logits, axis=-1))"),
    ),
    Planted(
        "sums are accumulated in float16",
        _all(faults.narrow_sum, "sum", "mean"),
        _each("sum of many", ("float16",)),
        NARROW_NORM,
        "fp16",
    ),
    Planted(
        "rows outside of a table are clamped into it",
        {"take": faults.clamped_take},
        _each("take outside", ("float32",)),
        (
            "xplm/generate/engine.py",
            "if not is_integer(i) or not 0 <= i < self.config.vocab_size:",
            "if False:",
        ),
    ),
    Planted(
        "an assignment keeps the last of repeated ids",
        {},
        _each("scatter-add"),
        (
            f"{K}/embedding.py",
            "sums.append(cast(one_hot, dyw.dtype) @ dyw)",
            "last = xp.arange(1, ids.shape[0] + 1) * cast(one_hot, xp.int64)\n"
            "        sums.append(xp.take(dyw, xp.argmax(last, axis=-1), axis=0))",
        ),
    ),
    Planted(
        "sorting is not stable",
        {"argsort": faults.unstable_argsort},
        _each("sort") + _each("falling sort"),
        ON_DEVICE,
    ),
    Planted(
        "there is no top-k",
        {},
        _each("top-k", ("float32",)),
        ON_DEVICE,
    ),
    Planted(
        "subnormal numbers are flushed",
        {"any function": faults.flushed},
        _each("subnormals", ("float32", "bfloat16")),
        (
            "xplm/numerics/parity/bounds.py",
            "return float(info.smallest_normal)",
            "return 0.0",
        ),
    ),
    Planted(
        "NaN is not seen",
        _all(faults.nan_ignored, "max", "min", "argmax", "argmin"),
        _each("NaN"),
        (SAMPLING, "if not np.all(np.isfinite(top)):", "if False:"),
    ),
    Planted(
        "exp(-inf) is NaN in float16",
        {"exp": faults.bad_exp},
        _each("exp(-inf), log(0)", ("float16",)),
        NARROW_NORM,
        "fp16",
    ),
    Planted(
        "float64 is rounded twice",
        {"astype": faults.through_float32},
        _each("from float64", ("bfloat16", "float16")),
        (
            "xplm/precision.py",
            "return xp.float64 if x.dtype == xp.float64 else xp.float32",
            "return xp.float64",
        ),
        "fp16",
    ),
]

OPEN = [
    Planted(
        "float32 products are TF32's",
        {"matmul": faults.tf32_operands},
        _each("product's operands", ("float32",)),
        None,
    ),
    Planted("a wrong row is taken", {"take": faults.shifted_take}, _each("take"), None),
    Planted(
        "casts truncate",
        {"astype": faults.truncating},
        _each("from float32", ("bfloat16",)) + _each("overflow, NaN, -0", ("bfloat16",)),
        None,
    ),
    Planted(
        "widening is not exact",
        {"astype": faults.inexact_widening},
        _each("to float32", ("float16",)),
        None,
    ),
]

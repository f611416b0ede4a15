"""A parity check as data: what was compared, where, and what was found."""

import math
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from xplm.numerics.parity.report import Drifts, ParityRow, Setting, first_fault
from xplm.runtime import Runtime

FORMAT = 2
"""Of the certificate; a change of its keys counts it up."""


def certificate(
    setting: Setting, model: str, kernels: str, rows: Sequence[ParityRow], seconds: float
) -> dict[str, Any]:
    """The JSON object of a parity check.

    Args:
        setting: what was compared with what.
        model: what the model is called.
        kernels: "fused" or "portable".
        rows: what was found.
        seconds: how long it took.
    """
    fault = first_fault(rows)
    return {
        "certificate": FORMAT,
        "is_parity": fault is None,
        "first_fault": None if fault is None else {"where": fault.where, "what": fault.what},
        "test": side(setting.test),
        "reference": side(setting.reference),
        "kernels": kernels,
        "model": model,
        "seed": setting.seed,
        "n_tensors": sum(row.n_tensors for row in rows),
        "seconds": round(seconds, 2),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(setting.test, setting.reference),
        "hardware": hardware(setting.test),
        "rows": [_row(row) for row in rows],
    }


def side(rt: Runtime) -> dict[str, str]:
    """One side, by name."""
    return {
        "backend": rt.backend.name,
        "device": rt.backend.device_name,
        "policy": str(rt.policy),
    }


def versions(*runtimes: Runtime) -> dict[str, str]:
    """Of Python, xplm, NumPy and the array libraries."""
    found = {
        "python": platform.python_version(),
        "xplm": version("xplm"),
        np.__name__: np.__version__,
        "ml_dtypes": version("ml_dtypes"),
    }
    for rt in runtimes:
        for name in (*rt.backend.xp.__name__.split("."), rt.backend.library):
            module = sys.modules.get(name)
            number = getattr(module, "__version__", None)
            if number and name != "xplm":
                found[name] = str(number)
    return found


def hardware(rt: Runtime) -> dict[str, str | int]:
    """The machine, and the device as its library names it."""
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "processor": processor(),
        "cores": os.cpu_count() or 1,
        "device": str(rt.backend.device),
        "gpus": ", ".join(gpus()) or "none",
    }


def processor() -> str:
    """The processor's model."""
    return _value(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine()


def gpus(folder: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """The models of the GPUs that NVIDIA's driver tells of, used or not."""
    return [_value(file, "Model") for file in sorted(folder.glob("*/information"))]


def _value(file: Path, name: str) -> str:
    """What the first line "name: value" of a file says; "" where there is none."""
    lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == name), "")


def drift_points(drifts: Drifts) -> list[dict[str, Any]]:
    """How errors grow through a pass, one entry a kernel call."""
    return [
        {"call": p.label, "error": number(p.error), "rounding": number(p.expected)}
        for p in drifts.points
    ]


def _row(row: ParityRow) -> dict[str, Any]:
    v = row.verdict
    return {
        "kind": row.kind,
        "name": row.name,
        "part": row.part,
        "verdict": "BUG" if row.is_bug else v.kind,
        "share_of_bound": number(v.share),
        "relative_error": number(v.error),
        "dtype": v.dtype,
        "n_tensors": row.n_tensors,
        "faults": [{"where": f.where, "what": f.what} for f in row.faults],
    }


def number(value: float) -> float | None:
    """A number as JSON can hold it; None for what is not finite."""
    return float(value) if math.isfinite(value) else None

"""The recording of one checkout, in a process that imports xplm from it:   python -m bits.record FOLDER ..."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import xplm
from bits.arrays import Recorder
from bits.models import CONFIGS, record_model, write_model
from bits.ops import record_ops
from bits.training import RUNS, record_run, write_data
from xplm.backend import load_backend
from xplm.runtime import make_runtime

POLICIES = {
    "fused": ("fp32", "bf16", "fp16", "fp32,matmul=bf16"),
    "portable": ("fp32", "bf16", "fp16", "fp8"),
}
"""By kernels; the last of each is emulated."""


def place(where: dict[str, Any], kernels: str, policy: str = "fp32") -> dict[str, Any]:
    """Where to compute, as `load_backend` takes it.

    On NumPy, one thread, so that two recordings leave each other a processor; and a fixed library of products, for the
    fastest one is measured, and two measurements need not agree.
    """
    if where["name"] not in (None, "numpy"):
        return where
    blas = "openblas" if kernels == "fused" and policy in POLICIES["fused"][:-1] else "numpy"
    return where | {"threads": 1, "blas": blas}


def record_all(folder: Path, where: dict[str, Any], parts: list[str]) -> None:
    """Record the parts that are asked for in a folder."""
    record = Recorder()
    bases = {name: write_model(name, folder / "models" / name) for name in CONFIGS}
    for kernels, policies in POLICIES.items():
        for policy in policies:
            rt = make_runtime(load_backend(**place(where, kernels, policy)), policy, kernels)
            if "ops" in parts:
                record_ops(record, f"ops/{kernels} {policy}", rt)
            if "models" in parts:
                flags = _renamed(place(where, kernels, policy))
                for name, base in bases.items():
                    lm = xplm.load(base, policy=policy, kernels=kernels, **flags)
                    record_model(record, f"{name}/{kernels} {policy}", lm)
    if "training" in parts:
        (folder / "training").mkdir()
        write_data(folder / "training")
        for name, run in RUNS.items():
            flags = _renamed(place(where, run.kernels)) | {"kernels": run.kernels}
            words = [f"--{key}={value}" for key, value in flags.items() if value is not None]
            out = record_run(record, name, folder / "training", bases["llama"], words)
            if name == "lora":
                lm = xplm.load(bases["llama"], adapter=out, **flags)
                record.add("training/lora/merged/logits", lm.logits(list(range(40))))
    record.save(folder)


def _renamed(place: dict[str, Any]) -> dict[str, Any]:
    """The same for `xplm.load` and the command line, where a backend's name is `backend`."""
    return {"backend" if key == "name" else key: value for key, value in place.items()}


def main() -> None:
    """Read the command line, make sure of the checkout, and record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--where", type=json.loads, required=True)
    parser.add_argument("--only", nargs="+", required=True)
    given = parser.parse_args()
    if given.checkout.resolve() not in Path(xplm.__file__).resolve().parents:
        sys.exit(f"error: xplm must come from {given.checkout}; got {xplm.__file__}")
    record_all(given.folder, given.where, given.only)


if __name__ == "__main__":
    main()

"""What mypy lets pass and what it refuses, where an array is asked for and in calls of the kernel table."""

import re
import subprocess
import sys

import pytest

from tests.paths import ROOT

pytest.importorskip("mypy", reason="needs mypy: pip install mypy")

GIVEN = """\
from dataclasses import dataclass
from typing import Any

import numpy as np

from xplm.kernels.dropout import DropoutSaved
from xplm.kernels.embedding import EmbeddingSaved
from xplm.kernels.linear import LinearSaved
from xplm.kernels.rms_norm import RMSNormSaved
from xplm.precision import Policy
from xplm.runtime import Runtime
from xplm.typing import Array, Params


@dataclass
class PackedWeight:
    blocks: Array
    shape: tuple[int, ...]
    ndim: int
    dtype: Any


def calls(
    rt: Runtime, policy: Policy, x: Array, dy: Array, weight: Array, packed: PackedWeight,
    embedding: EmbeddingSaved, linear: LinearSaved, norm: RMSNormSaved, eps: float,
    host: np.ndarray, keep: np.ndarray[tuple[int, int], np.dtype[np.bool]],
) -> None:
"""
PASS = [
    "rt.ops.rms_norm_fwd(x, weight, eps=eps, island=rt.dtype.norm)",
    "rt.ops.rms_norm_bwd(dy, norm)",
    "rt.ops.linear_bwd(dy, linear)[2]",
    "rt.ops.embedding_bwd(dy, embedding)",
    "rt.ops.linear_fwd(host, host)",
    "rt.ops.dropout_fwd(host, keep, rate=0.1)[1].keep",
    "rt.ops.dropout_fwd(x, ~(x > 0.0) & (x != 2.0), rate=0.1)",
    "rt.ops.linear_fwd((1.0 - x[0]) * -x.T / x.shape[0] + float(x[0]), weight @ weight)",
    "rt.ops.linear_fwd(rt.backend.xp.exp(x), weight)",
    "rt.ops.add_rms_norm_fwd(x, host, weight, eps=eps)[2].rstd",
    "params: Params = {'weight': weight, 'bias': host, 'made': rt.backend.xp.zeros(3)}",
    "number: np.ndarray = rt.backend.to_host(x)",
]
REFUSED = {
    # arguments of another place
    "rt.ops.rms_norm_fwd(x, eps, eps=eps)": '"float"; expected "Array"',
    "rt.ops.rms_norm_fwd(x, weight, eps=weight)": '"Array"; expected "float"',
    "rt.ops.rms_norm_bwd(norm, x)": '"RMSNormSaved"; expected "Array"',
    "rt.ops.linear_bwd(dy, embedding)": '"EmbeddingSaved"; expected "LinearSaved"',
    "rt.ops.add_rms_norm_bwd(dy, norm, dy)": '"RMSNormSaved"; expected "Array"',
    "saved: DropoutSaved = rt.ops.gelu_fwd(x)[1]": 'expression has type "GeluSaved"',
    # what is no array
    "rt.ops.linear_fwd(x, packed)": '"PackedWeight"; expected "Array"',
    "rt.ops.embedding_fwd(x, packed)": '"PackedWeight"; expected "Array"',
    "rt.ops.linear_fwd(x, 'weight')": '"str"; expected "Array"',
    "rt.ops.linear_fwd(x, 2)": '"int"; expected "Array"',
    "rt.ops.linear_fwd(x, (2, 3))": '"tuple[int, int]"; expected "Array"',
    "rt.ops.linear_fwd(x, policy)": '"Policy"; expected "Array"',
    "rt.ops.linear_fwd(x, None)": '"None"; expected "Array"',
    "more: Params = {'weight': packed}": '"PackedWeight"; expected "str": "Array"',
    "rt.backend.to_host(packed)": '"PackedWeight"; expected "Array"',
    # names and numbers of arguments
    "rt.ops.rms_norm_fwd(x, weight, epsilon=eps)": 'Unexpected keyword argument "epsilon"',
    "rt.ops.rms_norm_fwd(x, weight)": 'Missing named argument "eps"',
    "rt.ops.linear_fwd(x)": "Too few arguments",
    "rt.ops.norm_mlp_residual(x, eps=eps)": "Too few arguments",
    "rt.ops.rms_norm(x, weight, eps=eps)": 'has no attribute "rms_norm"',
    # what an array has not got
    "x[0] = 1.0": "Unsupported target for indexed assignment",
    "x.tolist()": '"Array" has no attribute "tolist"',
    "x.size": '"Array" has no attribute "size"',  # a method in PyTorch
}


def mypy(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A run of mypy in the project."""
    command = [sys.executable, "-m", "mypy", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What mypy says of each call, under the project's configuration and with its cache."""
    lines = [*GIVEN.splitlines(), *[f"    {call}" for call in (*PASS, *REFUSED)]]
    path = tmp_path_factory.mktemp("types") / "calls.py"
    path.write_text("\n".join(lines), encoding="utf-8")
    ran = mypy(str(path))
    assert ran.returncode == 1, ran.stderr or ran.stdout
    found: dict[str, str] = {}
    for number, says in re.findall(r"\bcalls\.py:(\d+): error: (.*)", ran.stdout):
        call = lines[int(number) - 1].strip()
        found[call] = found.get(call, "") + says
    return found


def test_right_calls_pass(errors):
    assert not errors.keys() - REFUSED.keys(), errors


@pytest.mark.parametrize("call", REFUSED)
def test_wrong_calls_are_refused(errors, call):
    assert REFUSED[call] in errors.get(call, "")


def test_the_project_passes():
    ran = mypy()
    assert ran.returncode == 0, ran.stdout

"""Libraries of matrix products: found, named, and refused where they are not there or not whole."""

import os
import subprocess
import sys

import pytest
from xplm_numpy import choice, libraries
from xplm_numpy.libraries import asked, find_mkl, find_openblas, missing_parts, mkl_file, use_blas

import xplm
from xplm.backend import load_backend
from xplm.errors import BackendError, RequestError
from xplm.runtime import make_runtime


@pytest.fixture
def another_mkl(monkeypatch):
    """another_mkl(file): `find_mkl` has only this one to find."""

    def put(file):
        find_mkl.cache_clear()
        monkeypatch.setattr(libraries, "mkl_file", lambda: file)

    yield put
    find_mkl.cache_clear()


def test_they_have_names_and_versions(mkl):
    assert find_openblas().version.startswith("OpenBLAS 0.")
    assert find_mkl().version.startswith("MKL 20")


def test_a_choice_holds_while_it_is_entered(mkl):
    with use_blas("openblas"):
        with use_blas("numpy"):
            assert asked() == "numpy"
        assert asked() == "openblas"
    assert asked() == "mkl"


def test_the_backend_holds_what_is_asked_for():
    backend = load_backend("numpy", threads=1, blas="openblas")
    with backend.computing():
        assert asked() == "openblas"
        assert [rate.way for rate in backend.blas.rates()] == ["openblas"]
    assert asked() is None
    assert (backend.threads, backend.blas.asked) == (1, "openblas")


def test_other_names_are_refused():
    with pytest.raises(BackendError, match='got "mlk"; did you mean mkl'):
        use_blas("mlk")
    with pytest.raises(BackendError, match="multiplies by its own library"):
        load_backend("strict", blas="openblas")
    with pytest.raises(BackendError, match='a blas is openblas, mkl, numpy; got "blis"'):
        xplm.load("shakespeare", blas="blis")


def test_kernels_that_do_not_use_it_are_refused():
    backend = load_backend("numpy", blas="openblas")
    for policy, kernels in (("fp32", "portable"), ("fp8", "fused")):
        with pytest.raises(RequestError, match="is what fused kernels multiply by"):
            make_runtime(backend, policy, kernels)
    make_runtime(load_backend("numpy", blas="numpy"), "fp32", "portable")


def test_what_is_not_installed_is_named(another_mkl):
    another_mkl(None)
    with pytest.raises(BackendError, match="pip install mkl"):
        load_backend("numpy", blas="mkl")


def test_a_numpy_with_another_blas(monkeypatch):
    for module in (libraries, choice):
        monkeypatch.setattr(module, "find_openblas", lambda: None)
    with pytest.raises(BackendError, match="use numpy or mkl"):
        load_backend("numpy", blas="openblas")
    monkeypatch.setattr(choice, "mkl_file", lambda: None)
    (rate,) = load_backend("numpy").blas.rates()
    assert (rate.dtype, rate.way, rate.is_chosen) == ("float32", "numpy", True)
    assert rate.flop_per_s > 0.0


def test_a_broken_mkl_is_refused(another_mkl, tmp_path, mkl):
    file = tmp_path / mkl_file().name
    file.write_bytes(b"no library")
    another_mkl(file)
    with pytest.raises(BackendError, match="lacks mkl_core, mkl_sequential, mkl_def"):
        find_mkl()
    for part in (*libraries.MKL_PARTS, libraries.MKL_INTERFACE):
        file.with_name(file.name.replace("mkl_rt", f"mkl_{part}")).touch()
    with pytest.raises(BackendError, match="must be a whole MKL"):
        find_mkl()


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("libmkl_rt.so.3", ["libmkl_core.so.3", "libmkl_sequential.so.3", "libmkl_def.so.3", "libmkl_intel_lp64.so.3"]),
        ("mkl_rt.3.dll", ["mkl_core.3.dll", "mkl_sequential.3.dll", "mkl_def.3.dll"]),
    ],
)  # fmt: skip
def test_each_system_has_the_parts_that_intels_package_brings(tmp_path, name, parts):
    for part in parts:
        assert missing_parts(tmp_path / name)
        (tmp_path / part).touch()
    assert missing_parts(tmp_path / name) == ""


SCRIPT = """
import os, sys, xplm.backend, xplm.runtime
before = dict(os.environ)
backend = xplm.backend.load_backend("numpy", blas="mkl")
import numpy as np
with backend.computing():
    rt = xplm.runtime.make_runtime(backend, "fp32")
    x = np.ones((300, 200), np.float32)
    y, _ = rt.ops.linear_fwd(x, x)
assert (y == 200.0).all()
assert dict(os.environ) == before
print(*sorted({os.path.basename(line.split()[-1]).split(".")[0] for line in open("/proc/self/maps") if ".so" in line}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/maps is Linux's")
def test_mkl_brings_no_threads_and_changes_no_variable(mkl):
    others = {
        "MKL_INTERFACE_LAYER": "LP64,GNU",
        "MKL_THREADING_LAYER": "GNU",
    }  # as conda may have it
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | others,
    )
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert {"libmkl_rt", "libmkl_core", "libmkl_sequential"} <= set(loaded)
    assert not {"libmkl_intel_thread", "libmkl_gnu_thread", "libiomp5"} & set(loaded)

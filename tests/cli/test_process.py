"""The settings of a process that only computes: made by the `xplm` command, and by nothing that is imported."""

import ctypes
import os
import subprocess
import sys
from types import SimpleNamespace

import numba
import pytest

import xplm.cli.process as process
from tests.on_backends import load_or_skip, on
from xplm.cli.process import SPIN, tune_process

LOOK = """
import ctypes, importlib.abc, sys

getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p

class Look(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "numba.np.ufunc.omppool":
            print(getenv(b"GOMP_SPINCOUNT").decode())

sys.meta_path.insert(0, Look())
from xplm.cli.process import tune_process
tune_process()
from xplm.backend import load_backend
assert load_backend("numpy").kernels
import numba
numba.get_num_threads()  # starts them
"""


@pytest.fixture
def linux(monkeypatch):
    """A Linux whose C library notes what it is told."""
    told = []
    library = SimpleNamespace(mallopt=lambda option, value: told.append((option, value)) or 1)
    load = ctypes.CDLL

    def of_this_process(name, *rest, **options):
        return library if name is None else load(name, *rest, **options)

    monkeypatch.setattr(ctypes, "CDLL", of_this_process)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv(SPIN[0], raising=False)
    return told


def test_freed_memory_is_kept_and_threads_spin_briefly(linux):
    tune_process()
    assert [option for option, _ in linux] == [
        process.M_MMAP_THRESHOLD, process.M_TRIM_THRESHOLD, process.M_ARENA_MAX,
    ]  # fmt: skip
    assert os.environ[SPIN[0]] == SPIN[1]


def test_what_the_user_says_of_spinning_stays(linux, monkeypatch):
    monkeypatch.setenv(SPIN[0], "7")
    tune_process()
    assert os.environ[SPIN[0]] == "7"


def test_other_systems_are_left_alone(linux, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    tune_process()
    assert (linux, os.environ.get(SPIN[0])) == ([], None)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=on(n)) for n in ("numpy", "torch", "jax", "strict")]
)
def test_making_a_backend_changes_nothing_of_the_process(name, linux):
    from threadpoolctl import threadpool_info

    load_or_skip(name)  # what importing the library does is not ours

    def state():
        blas = [(p["filepath"], p["num_threads"]) for p in threadpool_info()]
        return dict(os.environ), blas, numba.get_num_threads()

    before = state()
    load_or_skip(name)
    assert (state(), linux) == (before, [])


@pytest.mark.nightly
@pytest.mark.parametrize("given", [None, "7"], ids=["nothing said", "said"])
def test_openmp_is_told_before_it_is_loaded(given):
    if not sys.platform.startswith("linux"):
        pytest.skip("numba has other threads than GNU's here")
    environment = {name: value for name, value in os.environ.items() if name != SPIN[0]}
    environment |= {} if given is None else {SPIN[0]: given}
    command = [sys.executable, "-c", LOOK]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert out.stdout.split()[:1] == [given or SPIN[1]]

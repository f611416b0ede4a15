"""GNU's OpenMP is told how long to spin before it is loaded, unless the user has said so."""

import os
import subprocess
import sys

import pytest
from xplm_numpy.threads import SPIN

LOOK = """
import ctypes, importlib.abc, sys

getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p

class Look(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "numba.np.ufunc.omppool":
            print(getenv(b"GOMP_SPINCOUNT").decode())

sys.meta_path.insert(0, Look())
from xplm.backend import load_backend
assert load_backend("numpy").kernels
import numba
numba.get_num_threads()  # starts them
"""


@pytest.mark.parametrize("given", [None, "7"], ids=["nothing said", "said"])
def test_openmp_is_told_before_it_is_loaded(given):
    if not sys.platform.startswith("linux"):
        pytest.skip("numba has other threads than GNU's here")
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment |= {} if given is None else {"GOMP_SPINCOUNT": given}
    command = [sys.executable, "-c", LOOK]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert out.stdout.split()[:1] == [given or SPIN[1].decode()]

"""GNU's OpenMP is told how long to spin in the moment that it is loaded, and nobody else is."""

import os
import subprocess
import sys

import pytest
from xplm_numpy.threads import SPINS

LOOK = """
import importlib.abc, os, sys

class Look(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "numba.np.ufunc.omppool":
            print("at the load", os.environ.get("GOMP_SPINCOUNT"))

sys.meta_path.insert(0, Look())
from xplm.backend import load_backend
assert load_backend("numpy").kernels
print("afterwards", os.environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.parametrize(
    ("given", "at_the_load", "afterwards"),
    [
        ({}, SPINS, "None"),
        ({"GOMP_SPINCOUNT": "7"}, "7", "7"),
        ({"OMP_WAIT_POLICY": "active"}, "None", "None"),
    ],
    ids=["nothing said", "the count said", "the policy said"],
)
def test_openmp_is_told_as_it_is_loaded(given, at_the_load, afterwards):
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, "-c", LOOK]
    out = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment | given
    )
    assert out.stdout.split("\n")[:2] == [f"at the load {at_the_load}", f"afterwards {afterwards}"]

import subprocess
import sys

import pytest

import xplm

ARRAY_LIBRARIES = ("cupy", "torch", "jax", "array_api_strict", "transformers", "matplotlib")

PROBE = """
import sys, time
begin = time.perf_counter()
import xplm
{statement}
print(time.perf_counter() - begin)
print(*[name for name in {heavy!r} if name in sys.modules])
"""


def probe(statement, heavy):
    """Seconds that a fresh interpreter takes to import, and which of `heavy` it then holds."""
    program = PROBE.format(statement=statement, heavy=heavy)
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, held = result.stdout.splitlines()
    return float(seconds), held


def test_import_is_light():
    # The best of several, for the first reads from disk and a busy machine delays any of them.
    runs = [probe("", (*ARRAY_LIBRARIES, "numba", "gguf")) for _ in range(5)]
    assert {held for _, held in runs} == {""}
    assert min(seconds for seconds, _ in runs) < 0.3


@pytest.mark.parametrize("name", xplm.__all__)
def test_public_names_are_there(name):
    assert getattr(xplm, name).__name__ == name


def test_public_names_import_no_array_library():
    _, held = probe("; ".join(f"xplm.{name}" for name in xplm.__all__), ARRAY_LIBRARIES)
    assert held == ""


def test_a_model_that_is_used_imports_neither_training_nor_checks():
    _, held = probe("import xplm.language_model; xplm.load", ("xplm.train", "xplm.numerics"))
    assert held == ""


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        _ = xplm.lod


def test_numpy_is_used_as_it_is():
    # What wraps it imports all of NumPy, its Fortran compiler and its tests' runner too: 0.1 seconds.
    statement = (
        "from xplm.backend import load_backend; load_backend('numpy'); import numpy as np\n"
        "from xplm.namespace import array_namespace; array_namespace(np.ones(1))"
    )
    _, held = probe(statement, ("array_api_compat.numpy", "numpy.f2py", "unittest"))
    assert held == ""

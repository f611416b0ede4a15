"""Kernels that become machine code as wholes, beside functions that do not."""

from math import e

import numba
import numpy as np
import pytest
from numba.core.codegen import JITCodeLibrary
from xplm_numpy.exp import exp
from xplm_numpy.kernels.swiglu import swiglu_fwd

from tests.backends.numpy.fresh import run_with_kernels_in

PART_THEN_KERNEL = """
import numpy as np
import pytest
from xplm_numpy.exp import exp
from xplm_numpy.kernels.swiglu import swiglu_fwd
x = np.ones((3, 40), np.float32)
swiglu_fwd(x, x)
parts = list(exp.overloads.values())
print(*(part.library.is_machine_code for part in parts))
print(f"{exp(np.float32(1.0)):.5f}", exp(np.float32(0.0)))
print(*(part.library.is_machine_code for part in exp.overloads.values()))
"""


@pytest.mark.nightly
def test_a_part_of_a_kernel_is_no_machine_code_until_python_calls_it(tmp_path):
    first, then = (run_with_kernels_in(tmp_path, PART_THEN_KERNEL) for _ in range(2))
    assert first == ["False", "2.71828 1.0", "True"]
    assert then == ["", "2.71828 1.0", "True"]  # the kernel comes from the disk, without its parts


def test_functions_of_others_are_compiled_as_ever_and_may_call_ours():
    swiglu_fwd(*np.ones((2, 3, 40), np.float32))

    @numba.njit
    def double(x):
        return exp(x) * np.float32(2.0)

    assert np.isclose(double(np.float32(1.0)), 2.0 * e)
    (result,) = double.overloads.values()
    assert type(result.library) is JITCodeLibrary
    assert exp(np.float32(0.0)) == 1.0

"""The fusions, as compositions and as NumPy's backend replaces them."""

import numba
import pytest
from xplm_numpy.kernels import FUSED

from xplm.kernels.fusions import FUSIONS

DTYPES = [
    ("float32", "float32"),
    ("float16", "float16"),
    ("bfloat16", "bfloat16"),
    ("float32", "bfloat16"),
]


@pytest.fixture(params=["portable", "fused"])
def fusions(request):
    """The functions by name."""
    return {"portable": FUSIONS, "fused": FUSED}[request.param]


@pytest.fixture(params=DTYPES, ids="-".join)
def dtypes(request):
    """(activations, weights)"""
    return request.param


@pytest.fixture
def on_threads():
    """on_threads(n, function, ...): a call under n threads, where there are as many."""
    before = numba.get_num_threads()

    def call(n, function, *arguments, **options):
        numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))
        return function(*arguments, **options)

    yield call
    numba.set_num_threads(before)

"""The fusions, as compositions and as NumPy's backend replaces them."""

import pytest
from xplm_numpy.kernels import FUSED

from xplm.kernels.fusions import FUSIONS

DTYPES = [
    ("float32", "float32"),
    ("bfloat16", "bfloat16"),
    pytest.param(("float16", "float16"), marks=pytest.mark.nightly),  # each pair is compiled anew
    pytest.param(("float32", "bfloat16"), marks=pytest.mark.nightly),
]


@pytest.fixture(params=["portable", "fused"])
def fusions(request):
    """The functions by name."""
    return {"portable": FUSIONS, "fused": FUSED}[request.param]


@pytest.fixture(params=DTYPES, ids="-".join)
def dtypes(request):
    """(activations, weights)"""
    return request.param

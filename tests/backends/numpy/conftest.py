"""MKL, for the tests of fused kernels."""

import pytest
from xplm_numpy import choice
from xplm_numpy.libraries import BFLOAT16, FLOAT16, mkl_file, use_blas


@pytest.fixture
def mkl():
    """Products are MKL's."""
    if mkl_file() is None:
        pytest.skip("needs MKL: pip install mkl")
    with use_blas("mkl"):
        yield


@pytest.fixture
def narrow_products(mkl, monkeypatch):
    """Products of 16-bit operands are MKL's: on a processor without instructions for them, by those that it has."""
    monkeypatch.setattr(
        choice, "INSTRUCTIONS", dict.fromkeys((BFLOAT16, FLOAT16), choice.features())
    )
    choice.multiplies.cache_clear()
    yield
    choice.multiplies.cache_clear()

"""Products of 16-bit operands as they are stored, by MKL, against their definition."""

import ml_dtypes
import numpy as np
import pytest
from xplm_numpy import blas, choice, gemm
from xplm_numpy.blas import has_product, product
from xplm_numpy.libraries import BFLOAT16, FLOAT16, find_openblas, use_blas

from tests.backends.numpy.test_blas import LAYOUTS, SIZES, assert_is_product, draw
from xplm.backend import load_backend
from xplm.runtime import make_runtime


@pytest.fixture
def in_pieces(monkeypatch):
    """Even the smallest products are cut."""
    monkeypatch.setattr(gemm, "PIECE_FLOPS", 1)
    gemm._plan.cache_clear()
    yield
    gemm._plan.cache_clear()


NARROW = pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT16], ids=str)


@pytest.mark.parametrize("blas", ["openblas", "mkl"])
def test_they_want_a_library_that_has_them_and_instructions(
    mkl, narrow_products, monkeypatch, blas
):
    x = np.ones((2, 2), BFLOAT16)
    monkeypatch.setattr(choice, "INSTRUCTIONS", {BFLOAT16: {"avx512bf16", "amx-bf16"}})
    for features in (set(), {"avx512bf16"}, {"amx-bf16", "avx2"}):
        monkeypatch.setattr(choice, "features", lambda features=features: features)
        choice.multiplies.cache_clear()
        with use_blas(blas):
            assert has_product(x, x) == (bool(features) and blas == "mkl")
            assert not has_product(x, x.astype(np.float32))


@NARROW
@pytest.mark.parametrize("left", LAYOUTS)
@pytest.mark.parametrize("right", ["plain", "transposed", "backwards"])
def test_narrow_operands_lie_as_they_like(narrow_products, in_pieces, dtype, left, right):
    a, b = (x.astype(dtype) for x in draw(37, 50, 21))
    assert has_product(a, b)
    out = product(LAYOUTS[left](a), LAYOUTS[right](b), np.full((37, 50), np.nan, np.float32))
    assert_is_product(out, a, b)


@NARROW
@pytest.mark.parametrize("is_added", [False, True])
@pytest.mark.parametrize(("M", "N", "K"), [*SIZES, (3, 0, 4), (3, 4, 0)], ids=str)
def test_narrow_products_of_every_size(narrow_products, in_pieces, dtype, is_added, M, N, K):
    a, b = (np.rint(x).astype(dtype) for x in draw(M, N, K))  # small integers, whose sums are exact
    whole = np.full((M + 2, N + 2), 5.0, np.float32)
    product(a, b, whole[1:-1, 1:-1], is_added=is_added)
    expected = a.astype(np.float64) @ b.astype(np.float64) + 5.0 * is_added
    np.testing.assert_array_equal(whole[1:-1, 1:-1], expected)
    whole[1:-1, 1:-1] = 5.0
    assert (whole == 5.0).all()


@NARROW
def test_what_is_not_finite_stays_so(narrow_products, dtype):
    a = np.asarray([[np.inf, 1.0], [np.nan, 1.0], [-np.inf, 1.0], [np.inf, -np.inf]], dtype)
    out = product(a, np.ones((2, 1), dtype), np.empty((4, 1), np.float32))
    np.testing.assert_array_equal(out[:, 0], [np.inf, np.nan, -np.inf, np.nan])


@NARROW
def test_threads_change_no_bit_of_a_narrow_product(narrow_products, dtype, on_threads):
    a, b = (x.astype(dtype) for x in draw(300, 290, 280))
    one, two = (on_threads(n, product, a, b, np.empty((300, 290), np.float32)) for n in (1, 2))
    np.testing.assert_array_equal(one, two)


@NARROW
def test_a_library_whose_sums_are_narrow_is_not_used(monkeypatch, caplog, dtype):
    def in_16_bits(library, a, b, out):
        total = np.zeros(out.shape, dtype)
        for k in range(a.shape[1]):
            total = (total + a[:, k : k + 1] * b[k]).astype(dtype)
        out[...] = total
        return True

    monkeypatch.setattr(choice, "multiply", in_16_bits)
    assert not choice.adds_up(find_openblas(), dtype)
    assert "does not add" in caplog.text
    monkeypatch.setattr(
        choice,
        "multiply",
        lambda library, a, b, out: (
            np.matmul(a.astype(np.float32), b.astype(np.float32), out=out) is out
        ),
    )
    assert choice.adds_up(find_openblas(), dtype)


@NARROW
@pytest.mark.parametrize("flushes", [False, True])
def test_a_library_that_reads_subnormal_numbers_as_zeros_is_found_out(monkeypatch, dtype, flushes):
    def multiply(library, a, b, out):
        wide = a.astype(np.float32)
        if flushes:
            wide[np.abs(wide) < float(ml_dtypes.finfo(dtype).smallest_normal)] = 0.0
        np.matmul(wide, b.astype(np.float32), out=out)
        return True

    monkeypatch.setattr(choice, "multiply", multiply)
    assert choice.flushes_subnormals(find_openblas(), dtype) == flushes


@NARROW
def test_rounded_operands_of_an_emulated_policy_are_multiplied_so(
    narrow_products, monkeypatch, dtype
):
    dtypes = []
    multiply = blas.multiply

    def watched(library, a, *rest, **options):
        dtypes.append(a.dtype)
        return multiply(library, a, *rest, **options)

    monkeypatch.setattr(blas, "multiply", watched)
    policy = f"fp32,matmul={'bf16' if dtype == BFLOAT16 else 'fp16'}"
    rt = make_runtime(load_backend("numpy"), policy)
    a, b = draw(9, 7, 20)
    x, w = (rt.backend.from_host(array) for array in (a, np.ascontiguousarray(b.T)))
    y, _ = rt.ops.linear_fwd(x, w)
    assert_is_product(rt.backend.to_host(y), a.astype(dtype), b.astype(dtype))
    assert dtypes == [dtype]
    dtypes.clear()
    portable = make_runtime(load_backend("numpy"), policy, "portable")
    portable.ops.linear_fwd(*(portable.backend.from_host(array) for array in (a, b.T)))
    assert dtypes == []  # the reference source multiplies by nothing else than NumPy

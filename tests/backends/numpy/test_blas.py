"""Products by each library, in pieces on the kernels' threads, against their definition."""

import ctypes
from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits
from xplm_numpy import blas, gemm
from xplm_numpy.blas import product
from xplm_numpy.gemm import PIECE_FLOPS, PIECES
from xplm_numpy.libraries import find_openblas, use_blas

U = 2.0**-24

LAYOUTS = {
    "plain": lambda x: x,
    "transposed": lambda x: np.asfortranarray(x),
    "rows of a larger matrix": lambda x: np.vstack([x, x])[: len(x)],
    "columns of a larger matrix": lambda x: np.hstack([x, x])[:, : x.shape[1]],
    "every other column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "misaligned": lambda x: np.frombuffer(b" " + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
}  # fmt: skip
SIZES = [(1, 1, 1), (1, 40, 7), (40, 1, 7), (16, 16, 1), (17, 33, 5), (129, 31, 64), (31, 140, 64)]


@pytest.fixture(autouse=True)
def no_plans():
    """What a test changes of the rules of cutting ends with it."""
    yield
    gemm._plan.cache_clear()


@pytest.fixture(params=["openblas", "mkl"], autouse=True)
def library(request):
    if request.param == "mkl":
        request.getfixturevalue("mkl")
        yield "mkl"
        return
    with use_blas(request.param):
        yield request.param


@pytest.fixture
def in_pieces(monkeypatch):
    """Even the smallest products are cut."""
    monkeypatch.setattr(gemm, "PIECE_FLOPS", 1)
    gemm._plan.cache_clear()


def draw(M, N, K):
    rng = np.random.default_rng(M + 1000 * N + 100000 * K)
    return rng.standard_normal((M, K), np.float32), rng.standard_normal((K, N), np.float32)


def assert_is_product(out, a, b):
    """Of sums in float32, in any order."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    bound = 2 * a.shape[1] * U * (np.abs(a) @ np.abs(b))
    assert (np.abs(out - a @ b) <= bound).all()


def test_the_library_here_is_found():
    assert find_openblas() is not None


@pytest.mark.parametrize("left", LAYOUTS)
@pytest.mark.parametrize("right", LAYOUTS)
def test_operands_lie_as_they_like(in_pieces, left, right):
    a, b = draw(37, 50, 21)
    out = np.full((37, 50), np.nan, np.float32)
    assert product(LAYOUTS[left](a), LAYOUTS[right](b), out) is out
    assert_is_product(out, a, b)


@pytest.mark.parametrize(("M", "N", "K"), SIZES, ids=str)
@pytest.mark.parametrize("limits", [["PIECE_FLOPS"], ["MORE_FLOPS", "LEAST_WIDTH"], []], ids=str)
def test_every_size_is_covered_and_nothing_beside_it(monkeypatch, M, N, K, limits):
    for limit in limits:
        monkeypatch.setattr(gemm, limit, 1)
    gemm._plan.cache_clear()
    a, b = draw(M, N, K)
    whole = np.full((M + 2, N + 2), 7.0, np.float32)
    product(a, b, whole[1:-1, 1:-1])
    assert_is_product(whole[1:-1, 1:-1], a, b)
    whole[1:-1, 1:-1] = 7.0
    assert (whole == 7.0).all()


def test_the_number_of_pieces():
    half = PIECE_FLOPS // 2
    assert [gemm.count_pieces(1, 1, n * half) for n in (0, 1, 2, 3, 4, 100)] == [1, 1, 2, 2, 4, 4]
    side = gemm.MORE_PIECES * gemm.LEAST_WIDTH
    K = gemm.MORE_FLOPS // (2 * side)
    assert gemm.count_pieces(side, 1, K) == gemm.count_pieces(1, side, K) == gemm.MORE_PIECES
    assert gemm.count_pieces(side, 1, K - 1) == gemm.PIECES
    assert gemm.count_pieces(side - 1, 2, K) == gemm.PIECES


@pytest.mark.parametrize(("M", "N", "K"), [(0, 3, 4), (3, 0, 4), (3, 4, 0)], ids=str)
def test_what_is_empty(in_pieces, M, N, K):
    a, b = draw(M, N, K)
    assert (product(a, b, np.ones((M, N), np.float32)) == 0.0).all()


@pytest.mark.parametrize("flops", [1, PIECE_FLOPS])
@pytest.mark.parametrize("is_found", [True, False])
@pytest.mark.parametrize(("M", "N", "K"), [*SIZES, (3, 4, 0)], ids=str)
def test_a_product_is_added_to_what_there_is(monkeypatch, flops, is_found, M, N, K):
    monkeypatch.setattr(gemm, "PIECE_FLOPS", flops)
    gemm._plan.cache_clear()
    if not is_found:
        monkeypatch.setattr(blas, "library_for", lambda dtype: None)
    a, b = (np.rint(x) for x in draw(M, N, K))  # small integers, whose sums are exact
    out = np.full((M, N), 5.0, np.float32)
    assert product(a, b, out, is_added=True) is out
    np.testing.assert_array_equal(out, 5.0 + a.astype(np.float64) @ b)


@pytest.mark.parametrize("order", ["C", "F"])
def test_threads_and_runs_change_no_bit(order, on_threads):
    a, b = draw(300, 290, 280)
    assert PIECES * PIECE_FLOPS < 2 * 300 * 290 * 280
    right = np.asarray(b, order=order)
    once, *others = (
        on_threads(n, product, a, right, np.empty((300, 290), np.float32)) for n in (1, 2, 1)
    )
    for other in others:
        np.testing.assert_array_equal(other, once)


@pytest.mark.parametrize(("M", "N", "K"), [(1, 576, 576), (300, 1, 300), (64, 64, 64)], ids=str)
def test_a_small_product_of_openblas_is_numpys_and_wakes_no_thread(monkeypatch, M, N, K):
    monkeypatch.setattr(gemm, "_multiply", None)
    a, b = draw(M, N, K)
    right = a.T if M == N else b  # x @ x^T, which has a function of its own
    with threadpool_limits(1, user_api="blas"):
        expected = a @ right
    with use_blas("openblas"):
        found = product(a, right, np.empty((M, N), np.float32))
    np.testing.assert_array_equal(found, expected)


def placed(x, offset):
    """A copy whose first number lies so many bytes after a cache line's beginning."""
    room = np.zeros(x.nbytes + 128, np.uint8)
    begin = -room.ctypes.data % 64 + offset
    copy = room[begin : begin + x.nbytes].view(x.dtype).reshape(x.shape)
    copy[...] = x
    return copy


@pytest.mark.parametrize(("M", "N", "K"), [(3, 50, 64), (33, 65, 127), (128, 192, 576)], ids=str)
def test_where_matrices_lie_in_memory_changes_no_bit(M, N, K):
    a, b = draw(M, N, K)
    out = np.zeros((M, N), np.float32)
    expected, *others = (
        product(placed(a, i), placed(b, j), placed(out, k)).copy()
        for i, j, k in ((0, 0, 0), (4, 0, 0), (0, 16, 0), (0, 0, 32), (60, 20, 12))
    )
    for other in others:
        np.testing.assert_array_equal(other, expected)


def blas_threads():
    """Of NumPy's own: SciPy may have brought another."""
    found = ThreadpoolController().select(user_api="blas").lib_controllers
    return next(library.num_threads for library in found if "numpy" in library.filepath)


def test_shapes_that_do_not_fit(in_pieces):
    a, b = draw(20, 20, 20)
    for out in (np.empty((20, 21), np.float32), np.empty((19, 20), np.float32)):
        with pytest.raises(ValueError, match="mismatch"):
            product(a, b, out)
    with pytest.raises(ValueError, match="mismatch"):
        product(a[:, :19], b, np.empty((20, 20), np.float32))


def test_what_is_read_only_is_read_by_the_same_kernel_and_never_written(in_pieces):
    a, b = draw(20, 20, 20)
    product(a, b, np.empty((20, 20), np.float32))
    compiled = len(gemm._multiply.__wrapped__.signatures)
    a.flags.writeable = b.flags.writeable = False
    assert_is_product(product(a, b, np.empty((20, 20), np.float32)), a, b)
    assert len(gemm._multiply.__wrapped__.signatures) == compiled
    with pytest.raises(ValueError, match="read-only"):
        product(a, a, b)


def test_one_row_whatever_its_stride(in_pieces, monkeypatch):
    a, b = draw(1, 40, 30)
    row, column = np.broadcast_to(a[0], (1, 30)), b[:, :1]
    assert row.strides == (0, 4)
    out, one = np.empty((1, 40), np.float32), np.empty((1, 1), np.float32)
    with monkeypatch.context() as patch:
        patch.setattr(np, "matmul", None)  # NumPy's own is not asked
        product(row, b, out)
        product(row, column, one)
    assert_is_product(out, a, b)
    assert_is_product(one, a, column)


GEMM = ctypes.CFUNCTYPE(
    None, *[ctypes.c_int] * 3, *[ctypes.c_long] * 3, ctypes.c_float, ctypes.c_void_p, ctypes.c_long,
    ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.c_void_p, ctypes.c_long,
)  # fmt: skip


def test_openblas_computes_each_piece_on_one_thread_and_has_its_number_back(in_pieces):
    seen = []
    watch = GEMM(lambda *_: seen.append(blas_threads()))
    address = ctypes.cast(watch, ctypes.c_void_p).value
    watched = replace(find_openblas(), gemm={np.dtype(np.float32): address})
    a, b = draw(64, 20, 20)
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            assert gemm.multiply(watched, a, b, np.empty((64, 20), np.float32))
            assert blas_threads() == threads
    assert seen == [1] * 2 * PIECES


def test_a_library_that_takes_a_number_of_threads_has_its_own_back(in_pieces):
    calls = []
    take = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda n: calls.append(n) or 7)
    openblas = find_openblas()
    watched = replace(openblas, set_local_threads=ctypes.cast(take, ctypes.c_void_p).value)
    a, b = draw(64, 20, 20)
    assert gemm.multiply(watched, a, b, np.empty((64, 20), np.float32))
    assert calls == [1, 7] * PIECES


@pytest.mark.parametrize("dtypes", [("float64",) * 3, ("float32", "float32", "float64")], ids=str)
def test_other_dtypes_are_numpys(in_pieces, dtypes):
    a, b = (x.astype(dtype) for x, dtype in zip(draw(20, 20, 20), dtypes, strict=False))
    out = product(a, b, np.empty((20, 20), dtypes[2]))
    np.testing.assert_array_equal(out, np.matmul(a, b, out=np.empty((20, 20), dtypes[2])))


def test_numpys_own_is_used_whole(in_pieces, monkeypatch):
    monkeypatch.setattr(blas, "multiply", None)
    a, b = draw(30, 20, 10)
    with use_blas("numpy"):
        out = product(a, b, np.empty((30, 20), np.float32))
    np.testing.assert_array_equal(out, a @ b)

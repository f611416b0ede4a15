"""Large products on the kernels' own threads: each piece is BLAS's, computed by the thread that asks for it.

    out = a @ b          a (M, K), b (K, N), out (M, N), float32

NumPy's BLAS would start threads of its own. Those spin for milliseconds after a product, and numba's after a kernel, so
on few cores either pool takes the processor from the other; with one pool, attention between two products finds its
threads awake. The longer side of the result is cut into pieces whose number depends on the sizes alone, so a result
does not depend on the number of threads.

What is called is the OpenBLAS that NumPy itself brings, found by the names that NumPy's wheels give it. Where NumPy was
built with another BLAS, `product` is NumPy's own, on threads of its own.

FLOPs: 2 M N K. Bytes beside BLAS's own: none, for operands are read where they lie, transposed or not.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from importlib import import_module
from threading import Lock
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import prange
from numba.core import types
from numba.extending import intrinsic

from xplm_numpy.jit import parallel

PIECES = 8
"""The most that a product is cut into."""

PIECE_FLOPS = 2**21
"""What a piece must have to be worth a thread's waking up: about 30 microseconds."""

EDGE = 16
"""Pieces begin at multiples of it, so that BLAS's own tiles stay whole."""

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112  # of cblas.h
SIZE = 4  # bytes of a float32

_alone = Lock()


class _OpenBLAS(NamedTuple):
    sgemm: int  # address of cblas_sgemm, with 64-bit sizes
    get_threads: Callable[[], int]
    set_threads: Callable[[int], None]


class _Operand(NamedTuple):
    address: int
    order: int  # PLAIN or TRANSPOSED
    lead: int  # numbers from one row to the next, or from one column to the next


@cache
def _openblas() -> _OpenBLAS | None:
    """NumPy's OpenBLAS; None where it has another BLAS, or calls it otherwise."""
    library = ctypes.CDLL(import_module("numpy._core._multiarray_umath").__file__)
    try:
        sgemm = library.scipy_cblas_sgemm64_
        get_threads = library.scipy_openblas_get_num_threads64_
        set_threads = library.scipy_openblas_set_num_threads64_
    except AttributeError:
        return None
    return _OpenBLAS(ctypes.cast(sgemm, ctypes.c_void_p).value or 0, get_threads, set_threads)


def product(a, b, out):
    """out = a @ b, for matrices of float32 that may be transposes or slices; returns out.

    Raises:
        ValueError: the shapes do not fit.
    """
    (M, K), N = a.shape, b.shape[1]
    blas, operands = _openblas(), (_operand(a), _operand(b), _operand(out))
    fits = len(b) == K and out.shape == (M, N)
    if not fits or blas is None or None in operands or operands[2].order != PLAIN:
        return np.matmul(a, b, out=out)

    pieces = min(PIECES, max(1, 2 * M * N * K // PIECE_FLOPS))
    pieces = (
        1 << pieces.bit_length() - 1
    )  # a power of two, which most numbers of threads share evenly
    with _alone:
        threads = blas.get_threads()
        blas.set_threads(1)
        try:
            if pieces == 1:
                np.matmul(a, b, out=out)
            else:
                left, right, target = operands
                _multiply(blas.sgemm, *left, *right, target.address, target.lead, M, N, K, pieces)
        finally:
            blas.set_threads(threads)
    return out


def _operand(matrix):
    """A matrix as BLAS takes it; None if it cannot."""
    rows, columns = matrix.shape
    down, across = matrix.strides
    if matrix.dtype != np.float32 or not matrix.flags.aligned:
        return None
    address = matrix.__array_interface__["data"][0]
    if across == SIZE and down >= SIZE * columns and down % SIZE == 0:
        return _Operand(address, PLAIN, down // SIZE)
    if down == SIZE and across >= SIZE * rows and across % SIZE == 0:
        return _Operand(address, TRANSPOSED, across // SIZE)
    return None


@parallel()
def _multiply(
    sgemm, a, a_order, a_lead, b, b_order, b_lead, out, out_lead, M, N, K, pieces
):  # fmt: skip
    by_rows = M >= N
    longer = M if by_rows else N
    step = (longer + pieces * EDGE - 1) // (pieces * EDGE) * EDGE
    for unsigned in prange(pieces):
        begin = np.int64(unsigned) * step
        size = min(longer, begin + step) - begin
        if size > 0:
            if by_rows:
                a_at = a + SIZE * begin * (a_lead if a_order == PLAIN else 1)
                at = out + SIZE * begin * out_lead
                call_sgemm(
                    sgemm, a_order, b_order, size, N, K, a_at, a_lead, b, b_lead, at, out_lead
                )
            else:
                b_at = b + SIZE * begin * (1 if b_order == PLAIN else b_lead)
                at = out + SIZE * begin
                call_sgemm(
                    sgemm, a_order, b_order, M, size, K, a, a_lead, b_at, b_lead, at, out_lead
                )


@intrinsic
def call_sgemm(
    typing_context, sgemm, a_order, b_order, M, N, K, a, a_lead, b, b_lead, out, out_lead
):
    """cblas_sgemm of row-major matrices at their addresses: out = a @ b."""
    size, word, number = ir.IntType(64), ir.IntType(32), ir.FloatType()
    pointer = number.as_pointer()

    def generate(context, builder, signature, arguments):
        def at(address):
            return builder.inttoptr(address, pointer)

        sgemm, a_order, b_order, M, N, K, a, a_lead, b, b_lead, out, out_lead = arguments
        order = [word] * 3
        kinds = [*order, size, size, size, number, pointer, size, pointer, size, number]
        kind = ir.FunctionType(ir.VoidType(), [*kinds, pointer, size])
        function = builder.inttoptr(sgemm, kind.as_pointer())
        orders = [word(ROW_MAJOR), builder.trunc(a_order, word), builder.trunc(b_order, word)]
        left, right = [number(1.0), at(a), a_lead], [at(b), b_lead]
        builder.call(function, [*orders, M, N, K, *left, *right, number(0.0), at(out), out_lead])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 12), generate

"""Large products on the kernels' own threads: each piece is BLAS's, computed by the thread that asks for it.

    out = a @ b, or out += a @ b          a (M, K), b (K, N), out (M, N), float32

NumPy's BLAS would start threads of its own. Those spin for milliseconds after a product, and numba's after a kernel, so
on few cores either pool takes the processor from the other; with one pool, attention between two products finds its
threads awake. The longer side of the result is cut into pieces whose number depends on the sizes alone, so a result
does not depend on the number of threads.

What is called is the OpenBLAS that NumPy itself brings, found by the names that NumPy's wheels give it. Where NumPy was
built with another BLAS, which one line says, `product` is NumPy's own, on threads of its own; so it is for operands
that BLAS cannot read where they lie.

FLOPs: 2 M N K. Bytes beside BLAS's own: none, for operands are read where they lie, transposed or not.
"""

import ctypes
import logging
from functools import cache
from importlib import import_module

import numpy as np
from llvmlite import ir
from numba import prange
from numba.core import types
from numba.extending import intrinsic

from xplm.threads import hold_blas
from xplm_numpy.jit import parallel, serial
from xplm_numpy.narrow import FLOAT32, bits

PIECES = 4
"""At most, of most products: for each piece of one operand BLAS copies the other anew."""

PIECE_FLOPS = 2**21
"""What a piece must have to be worth a thread's waking up: about 30 microseconds."""

MORE_PIECES, MORE_FLOPS, LEAST_WIDTH = 8, 2**30, 2**8
"""Of a product that keeps even four threads busy for milliseconds, so that more of them find something to do: where
each piece still has so many rows, or columns. The narrower a piece, the more of its time goes to the copy of the other
operand, a tenth at half that width; so a smaller product leaves a fifth thread without work.
"""

EDGE = 16
"""Pieces begin at multiples of it, so that BLAS's own tiles stay whole."""

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112  # of cblas.h
FLOAT_BYTES = 4

logger = logging.getLogger(__name__)


@cache
def _openblas_sgemm() -> int | None:
    """Address of cblas_sgemm with 64-bit sizes, in NumPy's OpenBLAS; None where it has another BLAS, or other names."""
    library = ctypes.CDLL(import_module("numpy._core._multiarray_umath").__file__)
    try:
        sgemm = library.scipy_cblas_sgemm64_
    except AttributeError:
        logger.warning(
            "NumPy's BLAS is not its wheels' OpenBLAS: large products start threads of its own"
        )
        return None
    return ctypes.cast(sgemm, ctypes.c_void_p).value


def product(a, b, out, *, is_added=False):
    """out = a @ b, or out += a @ b; returns out, which overlaps neither. Float32, and transposes or slices as they are.

    Raises:
        ValueError: the shapes do not fit, or out is read-only.
    """
    (M, K), N = a.shape, b.shape[1]
    sgemm, lies = _openblas_sgemm(), (_layout(a), _layout(b), _layout(out))
    fits = len(b) == K > 0 and out.shape == (M, N) and out.flags.writeable
    if not fits or sgemm is None or None in lies or lies[2][0] != PLAIN:
        return np.add(out, np.matmul(a, b), out=out) if is_added else np.matmul(a, b, out=out)

    pieces = count_pieces(M, N, K)
    with hold_blas(1):
        if pieces == 1 and not is_added:
            np.matmul(a, b, out=out)
        else:
            left, right, (_, lead) = lies
            sizes = M, N, K, pieces
            _multiply(
                sgemm, _corner(a), *left, _corner(b), *right, _corner(out), lead, *sizes,
                np.float32(is_added),
            )  # fmt: skip
    return out


def count_pieces(M, N, K):
    """Pieces of a product: a power of two, which most numbers of threads share evenly."""
    flops = 2 * M * N * K
    if flops >= MORE_FLOPS and max(M, N) >= MORE_PIECES * LEAST_WIDTH:
        return MORE_PIECES
    return 2 ** (max(1, min(PIECES, flops // PIECE_FLOPS)).bit_length() - 1)


def _layout(matrix):
    """How BLAS reads a matrix: its layout, and numbers from one row, or column, to the next; None if it cannot."""
    rows, columns = matrix.shape
    down, across = matrix.strides
    if matrix.dtype != FLOAT32 or not matrix.flags.aligned:
        return None
    if rows == 1:  # a step that is never taken may be of any length
        down = FLOAT_BYTES * columns
    if columns == 1:
        across = FLOAT_BYTES
    if across == FLOAT_BYTES and down >= FLOAT_BYTES * columns and down % FLOAT_BYTES == 0:
        return PLAIN, down // FLOAT_BYTES
    if down == FLOAT_BYTES and across >= FLOAT_BYTES * rows and across % FLOAT_BYTES == 0:
        return TRANSPOSED, across // FLOAT_BYTES
    return None


def _corner(matrix):
    """The number in its corner: dense, however the matrix lies, so that one compiled kernel serves all."""
    return bits(matrix[:1, :1])


@parallel()
def _multiply(
    sgemm, a, a_layout, a_lead, b, b_layout, b_lead, out, out_lead, M, N, K, pieces, beta
):  # fmt: skip
    """a, b and out: their corners."""
    by_rows = M >= N
    longer = M if by_rows else N
    for unsigned in prange(pieces):
        piece = np.int64(unsigned)
        begin, end = _edge(longer, piece, pieces), _edge(longer, piece + 1, pieces)
        rows, columns = M, N
        a_at, b_at, at = a.ctypes.data, b.ctypes.data, out.ctypes.data
        if by_rows:
            rows = end - begin
            a_at += FLOAT_BYTES * begin * (a_lead if a_layout == PLAIN else 1)
            at += FLOAT_BYTES * begin * out_lead
        else:
            columns = end - begin
            b_at += FLOAT_BYTES * begin * (1 if b_layout == PLAIN else b_lead)
            at += FLOAT_BYTES * begin
        if end > begin:
            call_sgemm(
                sgemm, a_layout, b_layout, rows, columns, K,
                a_at, a_lead, b_at, b_lead, at, out_lead, beta,
            )  # fmt: skip


@serial()
def _edge(length, piece, pieces):
    """Where a piece begins."""
    return length if piece == pieces else length * piece // pieces // EDGE * EDGE


@intrinsic
def call_sgemm(
    typing_context, sgemm, a_layout, b_layout, M, N, K, a, a_lead, b, b_lead, out, out_lead, beta
):
    """cblas_sgemm of row-major matrices at their addresses: out = a @ b + beta out."""
    long, word, number = ir.IntType(64), ir.IntType(32), ir.FloatType()
    pointer = number.as_pointer()
    parameters = [word, word, word, long, long, long, number, pointer, long, pointer, long]
    signature = ir.FunctionType(ir.VoidType(), [*parameters, number, pointer, long])

    def generate(context, builder, _, arguments):
        sgemm, a_layout, b_layout, M, N, K, a, a_lead, b, b_lead, out, out_lead, beta = arguments
        function = builder.inttoptr(sgemm, signature.as_pointer())
        layouts = [builder.trunc(a_layout, word), builder.trunc(b_layout, word)]
        a, b, out = (builder.inttoptr(address, pointer) for address in (a, b, out))
        left, right = [number(1.0), a, a_lead], [b, b_lead]
        target = [beta, out, out_lead]
        builder.call(function, [word(ROW_MAJOR), *layouts, M, N, K, *left, *right, *target])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 12, types.float32), generate

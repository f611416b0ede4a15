"""Large products on the kernels' own threads: each piece is a library's, computed by the thread that asks for it.

    out = a @ b, or out += a @ b          a (M, K), b (K, N) of one dtype, out (M, N) float32

A BLAS would start threads of its own. Those spin for milliseconds after a product, and numba's after a kernel, so on
few cores either pool takes the processor from the other; with one pool, attention between two products finds its
threads awake. So the library is held at one thread, and the longer side of the result is cut, into pieces whose number
depends on the sizes alone: a result does not depend on the number of threads.

Operands of 16 bits are multiplied as they are stored, where a library does that; its sums are in float32.

FLOPs: 2 M N K. Bytes beside the library's own: none, for operands are read where they lie, transposed or not.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import prange
from numba.core import types
from numba.extending import intrinsic

from xplm.threads import hold_blas
from xplm_numpy.jit import parallel, serial
from xplm_numpy.libraries import OPENBLAS
from xplm_numpy.narrow import bits

PIECES = 4
"""At most, of most products: for each piece of one operand the library copies the other anew."""

PIECE_FLOPS = 2**21
"""What a piece must have to be worth a thread's waking up: about 30 microseconds."""

MORE_PIECES, MORE_FLOPS, LEAST_WIDTH = 8, 2**30, 2**8
"""Of a product that keeps even four threads busy for milliseconds, so that more of them find something to do: where
each piece still has so many rows, or columns. The narrower a piece, the more of its time goes to the copy of the other
operand, a tenth at half that width; so a smaller product leaves a fifth thread without work.
"""

EDGE = 16
"""Pieces begin at multiples of it, so that BLAS's own tiles stay whole."""

PLANS = 512
"""Of products that are remembered: more than one model's."""

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112  # of cblas.h
FLOAT_BYTES = 4


class _Plan(NamedTuple):
    """What `_multiply` is told of a product, by its shapes and strides."""

    left: tuple[int, int]  # layout, and numbers from one row or column to the next
    right: tuple[int, int]
    lead: int  # of out, from one row to the next
    sizes: tuple[int, int, int, int]  # M, N, K, pieces


def multiply(library, a, b, out, *, is_added=False):
    """out = a @ b, or out += a @ b, by a library; False, and nothing is done, where `_plan` has none for it.

    Args:
        library: a Library with products of the operands' dtype.
        a: (M, K).
        b: (K, N), of the same dtype.
        out: (M, N) float32, which overlaps neither.
        is_added: whether out is added to.
    """
    plan = _plan(a.shape, a.strides, b.shape, b.strides, out.shape, out.strides, a.itemsize)
    if plan is None or not (a.flags.aligned and b.flags.aligned and out.flags.behaved):
        return False

    left, right, lead, sizes = plan
    pieces = sizes[-1]
    if pieces == 1 and library.name == OPENBLAS and not is_added:
        # The same library, and no thread is woken; one row, or x @ x^T, goes by what is made for it.
        with hold_blas(1):
            np.matmul(a, b, out=out)
        return True
    _multiply(
        library.gemm[a.dtype], *library.thread_calls, a.itemsize,
        _corner(a), *left, _corner(b), *right, _corner(out), lead, *sizes, np.float32(is_added),
    )  # fmt: skip
    return True


@lru_cache(maxsize=PLANS)
def _plan(a_shape, a_strides, b_shape, b_strides, out_shape, out_strides, number):
    """The plan of a product; None where shapes do not fit, nothing is added up, or BLAS cannot read what lies so.

    Args:
        a_shape: (M, K).
        a_strides: in bytes, as all.
        b_shape: (K, N).
        b_strides: likewise.
        out_shape: (M, N), of float32.
        out_strides: likewise.
        number: bytes of a number of a or b.
    """
    (M, K), N = a_shape, b_shape[1]
    if b_shape[0] != K or out_shape != (M, N) or K == 0:
        return None
    left, right = _layout(a_shape, a_strides, number), _layout(b_shape, b_strides, number)
    target = _layout(out_shape, out_strides, FLOAT_BYTES)
    if left is None or right is None or target is None or target[0] != PLAIN:
        return None
    return _Plan(left, right, target[1], (M, N, K, count_pieces(M, N, K)))


def count_pieces(M, N, K):
    """Pieces of a product: a power of two, which most numbers of threads share evenly."""
    flops = 2 * M * N * K
    if flops >= MORE_FLOPS and max(M, N) >= MORE_PIECES * LEAST_WIDTH:
        return MORE_PIECES
    return 2 ** (max(1, min(PIECES, flops // PIECE_FLOPS)).bit_length() - 1)


def _layout(shape, strides, number):
    """How BLAS reads a matrix: its layout, and numbers from one row, or column, to the next; None if it cannot."""
    (rows, columns), (down, across) = shape, strides
    if rows == 1:  # a step that is never taken may be of any length
        down = number * columns
    if columns == 1:
        across = number
    if across == number and down >= number * columns and down % number == 0:
        return PLAIN, down // number
    if down == number and across >= number * rows and across % number == 0:
        return TRANSPOSED, across // number
    return None


def _corner(matrix):
    """The number in its corner: dense, however the matrix lies, so that one compiled kernel serves all."""
    return bits(matrix[:1, :1])


@parallel()
def _multiply(
    gemm, set_local_threads, get_threads, set_threads, number,
    a, a_layout, a_lead, b, b_layout, b_lead, out, out_lead, M, N, K, pieces, beta,
):  # fmt: skip
    """a, b and out: their corners; number: the bytes of one of a or b.

    The number of threads of a library that has one for the process is held here, between two calls that no other
    Python thread can come between: a kernel keeps the interpreter's lock.
    """
    threads = call_get_threads(get_threads) if get_threads else 1
    if threads != 1:
        call_set_threads(set_threads, 1)
    by_rows = M >= N
    longer = M if by_rows else N
    for unsigned in prange(pieces):
        piece = np.int64(unsigned)
        begin, end = _edge(longer, piece, pieces), _edge(longer, piece + 1, pieces)
        rows, columns = M, N
        a_at, b_at, at = a.ctypes.data, b.ctypes.data, out.ctypes.data
        if by_rows:
            rows = end - begin
            a_at += number * begin * (a_lead if a_layout == PLAIN else 1)
            at += FLOAT_BYTES * begin * out_lead
        else:
            columns = end - begin
            b_at += number * begin * (1 if b_layout == PLAIN else b_lead)
            at += FLOAT_BYTES * begin
        if end > begin:
            before = call_set_threads(set_local_threads, 1) if set_local_threads else 0
            call_gemm(
                gemm, a_layout, b_layout, rows, columns, K,
                a_at, a_lead, b_at, b_lead, at, out_lead, beta,
            )  # fmt: skip
            if set_local_threads:
                call_set_threads(set_local_threads, before)
    if threads != 1:
        call_set_threads(set_threads, threads)


@serial()
def _edge(length, piece, pieces):
    """Where a piece begins."""
    return length if piece == pieces else length * piece // pieces // EDGE * EDGE


@intrinsic
def call_get_threads(typing_context, function):
    """The number of threads, of a function () -> n of C at its address."""
    word = ir.IntType(32)
    signature = ir.FunctionType(word, [])

    def generate(context, builder, _, arguments):
        function = builder.inttoptr(arguments[0], signature.as_pointer())
        return builder.sext(builder.call(function, []), ir.IntType(64))

    return types.int64(types.int64), generate


@intrinsic
def call_set_threads(typing_context, function, threads):
    """The number of threads before, of a function (n) -> n before of C at its address; of no meaning if it has none."""
    word = ir.IntType(32)
    signature = ir.FunctionType(word, [word])

    def generate(context, builder, _, arguments):
        function, threads = arguments
        function = builder.inttoptr(function, signature.as_pointer())
        before = builder.call(function, [builder.trunc(threads, word)])
        return builder.sext(before, ir.IntType(64))

    return types.int64(types.int64, types.int64), generate


@intrinsic
def call_gemm(
    typing_context, gemm, a_layout, b_layout, M, N, K, a, a_lead, b, b_lead, out, out_lead, beta
):
    """cblas_?gemm of row-major matrices at their addresses: out = a @ b + beta out. Sums are float32's."""
    long, word, number = ir.IntType(64), ir.IntType(32), ir.FloatType()
    pointer = number.as_pointer()  # whatever it points to: C passes all alike
    parameters = [word, word, word, long, long, long, number, pointer, long, pointer, long]
    signature = ir.FunctionType(ir.VoidType(), [*parameters, number, pointer, long])

    def generate(context, builder, _, arguments):
        gemm, a_layout, b_layout, M, N, K, a, a_lead, b, b_lead, out, out_lead, beta = arguments
        function = builder.inttoptr(gemm, signature.as_pointer())
        layouts = [builder.trunc(a_layout, word), builder.trunc(b_layout, word)]
        a, b, out = (builder.inttoptr(address, pointer) for address in (a, b, out))
        left, right = [number(1.0), a, a_lead], [b, b_lead]
        target = [beta, out, out_lead]
        builder.call(function, [word(ROW_MAJOR), *layouts, M, N, K, *left, *right, *target])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 12, types.float32), generate

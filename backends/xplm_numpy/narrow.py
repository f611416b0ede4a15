"""float16 and bfloat16 inside compiled loops: stored as their bits, widened to float32 in a register.

numba has neither format on a CPU, so a kernel is given the bits, as integers of a type of their own:

    float32   float32 as it is
    bfloat16  uint16     the upper half of a float32: widened by a shift
    float16   int16      widened by the machine's own instruction, through LLVM's fpext

`widen` and `narrow` find out from that type what they are given, and both vanish into vector instructions. Rounding is
to nearest, ties to even, as everywhere in xplm; NaN stays NaN.
"""

from typing import NamedTuple

import ml_dtypes
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from xplm_numpy.arrays import empty
from xplm_numpy.jit import serial

STORED = {
    np.dtype(np.float32): np.dtype(np.float32),
    np.dtype(ml_dtypes.bfloat16): np.dtype(np.uint16),
    np.dtype(np.float16): np.dtype(np.int16),
}
"""What a kernel is given for each dtype that it takes."""

FLOAT32 = np.dtype(np.float32)
NO_BIAS = {dtype: np.empty(0, stored) for dtype, stored in STORED.items()}

I16, I32 = ir.IntType(16), ir.IntType(32)
HALF, FLOAT = ir.HalfType(), ir.FloatType()


def takes(*arrays):
    """Whether all of these, None aside, have a dtype that kernels take."""
    return {array.dtype for array in arrays if array is not None} <= STORED.keys()


def alike(arrays):
    """Whether all of these, None aside, have one dtype."""
    return len({array.dtype for array in arrays if array is not None}) == 1


def in_float32(island):
    """Whether an island computes in float32, as it does if nothing is asked for. (float64 == None, as NumPy has it.)"""
    return island is None or island == FLOAT32


def bits(array):
    """The array as kernels are given it: dense, aligned, its narrow floats as integers."""
    if not array.flags.carray:
        return _behaved(array)
    return array if array.dtype is FLOAT32 else array.view(STORED[array.dtype])


def _behaved(array):
    if not (array.flags.c_contiguous and array.flags.aligned):
        array = np.array(array, order="C")
    return _unflagged(array.view(STORED[array.dtype]))


def contiguous(array, dtype=None):
    """An array of a dtype that numba has as kernels are given it: dense, aligned, of `dtype` if one is given."""
    array = np.ascontiguousarray(array, dtype)
    return array if array.flags.behaved else _unflagged(np.require(array, requirements="A"))


def _unflagged(array):
    return array if array.flags.writeable else np.asarray(_Writeable(array))


def dense(array):
    """The array, dense and aligned."""
    return bits(array).view(array.dtype)


class _Writeable(NamedTuple):
    """A read-only array without its flag: numba compiles a kernel anew for each argument that has it."""

    array: np.ndarray

    @property
    def __array_interface__(self):
        interface = self.array.__array_interface__
        return interface | {"data": (interface["data"][0], False)}


def weight_bits(weight, like):
    """A matrix as kernels are given it: where there is none, one of no rows, stored like another."""
    return bits(like)[:0] if weight is None else bits(weight)


def bias_bits(bias, weight):
    """A bias as kernels are given it: where there is none an empty one, so that one compiled kernel serves both."""
    return NO_BIAS[weight.dtype] if bias is None else bits(bias)


@intrinsic
def widen(typing_context, stored):
    """float32 from a number as it is stored."""
    if stored not in (types.float32, types.uint16, types.int16):
        return None

    def generate(context, builder, signature, arguments):
        (value,) = arguments
        if stored == types.float32:
            return value
        if stored == types.int16:
            return builder.fpext(builder.bitcast(value, HALF), FLOAT)
        upper = builder.shl(builder.zext(value, I32), I32(16))
        return builder.bitcast(upper, FLOAT)

    return types.float32(stored), generate


@intrinsic
def narrow(typing_context, value, like):
    """A float32 rounded to what the array `like` stores."""
    stored = like.dtype
    if value != types.float32 or stored not in (types.float32, types.uint16, types.int16):
        return None

    def generate(context, builder, signature, arguments):
        value = arguments[0]
        if stored == types.float32:
            return value
        if stored == types.int16:
            return builder.bitcast(builder.fptrunc(value, HALF), I16)
        whole = builder.bitcast(value, I32)
        odd = builder.and_(builder.lshr(whole, I32(16)), I32(1))
        up = builder.add(whole, builder.add(odd, I32(0x7FFF)))  # carries where it rounds up
        quiet = builder.or_(whole, I32(0x400000))  # a NaN must not carry into infinity
        is_nan = builder.fcmp_unordered("uno", value, value)
        return builder.trunc(builder.lshr(builder.select(is_nan, quiet, up), I32(16)), I16)

    return stored(value, like), generate


@intrinsic
def as_bits(typing_context, value):
    """The uint32 with the bits of a float32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], I32)

    return types.uint32(types.float32), generate


@intrinsic
def from_bits(typing_context, value):
    """The float32 with the bits of a uint32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], FLOAT)

    return types.float32(types.uint32), generate


@serial()
def widen_rows(x):
    """float32 (R, C) from rows (R, C) as stored."""
    R, C = x.shape
    wide = empty((R, C))
    for r in range(R):
        for c in range(C):
            wide[r, c] = widen(x[r, c])
    return wide

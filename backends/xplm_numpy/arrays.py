"""Arrays that a kernel makes for itself, or finds at an address."""

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from xplm_numpy.compiler import COMPILER, WHOLE


def _allocator(by_numpy, *, is_zero):
    @intrinsic
    def allocate(typing_context, shape):
        array = types.Array(types.float32, len(shape), "C")

        def generate(context, builder, signature, arguments):
            if COMPILER.way == WHOLE:
                make = COMPILER.insides.allocate
                return make(context, builder, array, arguments[0], is_zero=is_zero)
            return context.compile_internal(builder, by_numpy, signature, arguments)

        return array(shape), generate

    return allocate


empty = _allocator(lambda shape: np.empty(shape, np.float32), is_zero=False)
"""empty((B, C)): a dense float32 array, with whatever lies in that memory."""

zeros = _allocator(lambda shape: np.zeros(shape, np.float32), is_zero=True)
"""The same, of zeros."""


@intrinsic
def moved(typing_context, arrays, places):
    """A tuple of arrays of the same dtypes and shapes as these, dense ones, at the addresses in an array (N,) int64.

    The caller keeps what lies there.
    """

    def generate(context, builder, signature, arguments):
        known, places = arguments[0], _struct(context, builder, signature.args[1], arguments[1])
        elements = []
        for i, array in enumerate(arrays):
            old = _struct(context, builder, array, builder.extract_value(known, i))
            new = _struct(context, builder, array)  # all zero, so of no owner
            place = builder.load(builder.gep(places.data, [context.get_constant(types.intp, i)]))
            new.data = builder.inttoptr(place, old.data.type)
            new.nitems, new.itemsize = old.nitems, old.itemsize
            new.shape, new.strides = old.shape, old.strides
            elements.append(new._getvalue())
        return context.make_tuple(builder, arrays, elements)

    return arrays(arrays, places), generate


def _struct(context, builder, array, value=None):
    """The fields of an array of a numba type."""
    return cgutils.create_struct_proxy(array)(context, builder, value=value)

"""Arrays that a kernel makes for itself, or finds at an address.

numba compiles `np.empty` anew for each number of dimensions, and `np.zeros` on top of it, as functions of their own
that check their arguments: a tenth of the time that the kernels of a command take.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.imputils import impl_ret_new_ref
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

ALIGNMENT = 64
"""Bytes: a cache line."""

FLOAT = ir.FloatType()


def _allocator(*, is_zero):
    @intrinsic
    def allocate(typing_context, shape):
        array = types.Array(types.float32, len(shape), "C")

        def generate(context, builder, signature, arguments):
            return _allocate(context, builder, array, arguments[0], is_zero)

        return array(shape), generate

    return allocate


def _allocate(context, builder, array, shape, is_zero):
    """An LLVM value that is a new array of numba's type `array`."""
    sizes = cgutils.unpack_tuple(builder, shape)
    itemsize = context.get_constant(types.intp, array.dtype.bitwidth // 8)
    n_bytes, strides = itemsize, []
    for size in reversed(sizes):
        strides.insert(0, n_bytes)
        n_bytes = builder.mul(n_bytes, size)

    owner = context.nrt.meminfo_alloc_aligned(builder, n_bytes, ALIGNMENT)
    data = builder.bitcast(context.nrt.meminfo_data(builder, owner), FLOAT.as_pointer())
    if is_zero:
        cgutils.memset(builder, data, n_bytes, 0)
    made = make_array(array)(context, builder)
    populate_array(made, data, sizes, strides, itemsize, owner)
    return impl_ret_new_ref(context, builder, array, made._getvalue())


empty = _allocator(is_zero=False)
"""empty((B, C)): a dense float32 array, with whatever lies in that memory."""

zeros = _allocator(is_zero=True)
"""The same, of zeros."""


@intrinsic
def moved(typing_context, arrays, places):
    """A tuple of arrays of the same dtypes and shapes as these, dense ones, at the addresses in an array (N,) int64.

    Somebody else keeps what lies there.
    """

    def generate(context, builder, signature, arguments):
        known, places = arguments[0], make_array(signature.args[1])(context, builder, arguments[1])
        elements = []
        for i, array in enumerate(arrays):
            make = make_array(array)
            old = make(context, builder, builder.extract_value(known, i))
            new = make(context, builder)
            place = builder.load(builder.gep(places.data, [context.get_constant(types.intp, i)]))
            data = builder.inttoptr(place, old.data.type)
            populate_array(new, data, old.shape, old.strides, old.itemsize, meminfo=None)
            elements.append(new._getvalue())
        return context.make_tuple(builder, arrays, elements)

    return arrays(arrays, places), generate

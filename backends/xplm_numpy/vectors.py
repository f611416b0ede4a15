"""Pieces of LLVM code for loops whose sums have an order that is written out: see `xplm_numpy.dot`.

They also serve where a loop would not be vectorised at all: numba lets a place count from the end of an array, so none
may begin at a place whose sign LLVM cannot tell.
"""

from contextlib import contextmanager

from llvmlite import binding, ir
from numba.core import types
from numba.extending import intrinsic

LANES = 16 if binding.get_host_cpu_features().get("avx512f") else 8
"""Numbers of a vector; a power of two, 8 or more."""

LINE = 64
"""Bytes that come from memory together."""

PLACE, I16, I32 = ir.IntType(64), ir.IntType(16), ir.IntType(32)
HALF, FLOAT = ir.HalfType(), ir.FloatType()
NUMBERS = {types.float32: FLOAT, types.uint16: I16, types.int16: HALF}
"""What a stored number is to LLVM: see `xplm_numpy.narrow`."""

KEPT = ("contract",)  # numba gives instructions without a flag its own, which let them be reordered


def data_of(context, builder, kind, array):
    """The address of an array's first number, as LLVM's type of such numbers."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(data, NUMBERS[kind.dtype].as_pointer())


def named_function(module, name, kind):
    """A function of a module, its builder, and whether it was there: one for all places of a kernel that call it."""
    if name in module.globals:
        return module.globals[name], None, True
    function = ir.Function(module, kind, name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    return function, ir.IRBuilder(function.append_basic_block()), False


@contextmanager
def loop(builder, begin, end, step, values):
    """A loop over c, a multiple of `step` apart, that carries values.

    Yields c, the values before a step, and a list that is to be given those after it; behind the loop it holds the
    last ones.
    """
    entry, body = builder.block, builder.append_basic_block()
    behind = builder.append_basic_block()
    builder.cbranch(builder.icmp_signed("<", begin, end), body, behind)
    builder.position_at_end(body)
    c = builder.phi(PLACE)
    before, after = [builder.phi(value.type) for value in values], []
    yield c, before, after
    following = builder.add(c, PLACE(step))
    last = builder.block  # another than `body`, if a loop is in it
    builder.cbranch(builder.icmp_signed("<", following, end), body, behind)
    c.add_incoming(begin, entry)
    c.add_incoming(following, last)
    builder.position_at_end(behind)
    for i, (phi, first, carried) in enumerate(zip(before, values, list(after), strict=True)):
        after[i] = builder.phi(phi.type)
        for result in (phi, after[i]):
            result.add_incoming(first, entry)
            result.add_incoming(carried, last)


def load(builder, base, index, lanes):
    """A vector of numbers from base + index on, in float32.

    Of one number too: numba lets calls that return a float be reordered.
    """
    number = base.type.pointee
    numbers, floats, words = (ir.VectorType(kind, lanes) for kind in (number, FLOAT, I32))
    place = builder.bitcast(builder.gep(base, [index]), numbers.as_pointer())
    value = builder.load(place, align=4 if number == FLOAT else 2)
    if number == HALF:
        return builder.fpext(value, floats)
    if number == I16:
        upper = builder.shl(builder.zext(value, words), ir.Constant(words, [16] * lanes))
        return builder.bitcast(upper, floats)
    return value


def fused_multiply_add(builder, a, b, c, suffix):
    """a b + c of floats or vectors: LLVM fuses both wherever the processor can, or nowhere."""
    kind = ir.FunctionType(a.type, [a.type] * 3)
    name = f"llvm.fmuladd.{suffix}"
    known = builder.module.globals.get(name)
    return builder.call(known or ir.Function(builder.module, kind, name), [a, b, c])


def halved(builder, vector, lanes, join):
    """A vector's halves joined until `lanes` are left."""
    while (n := vector.type.count) > lanes:
        low, high = (pick(builder, vector, vector, range(i, i + n // 2)) for i in (0, n // 2))
        vector = join(low, high)
    return vector


def pick(builder, a, b, order):
    order = list(order)
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(order)), order))


@intrinsic
def prefetch(typing_context, array, at, length):
    """Have a stretch of a dense array's numbers brought into the cache, while something else is computed."""
    if array.dtype not in NUMBERS:
        return None

    def generate(context, builder, signature, arguments):
        data = data_of(context, builder, signature.args[0], arguments[0])
        function = _prefetch_function(builder.module, data.type.pointee, array.dtype.bitwidth // 8)
        builder.call(function, [builder.gep(data, [arguments[1]]), arguments[2]])
        return context.get_dummy_value()

    n = types.intp
    return types.void(array, n, n), generate


def _prefetch_function(module, number, size):
    kind = ir.FunctionType(ir.VoidType(), [number.as_pointer(), PLACE])
    function, builder, is_known = named_function(module, f"xplm_prefetch_{number}", kind)
    if is_known:
        return function
    start, length = function.args
    byte = ir.IntType(8).as_pointer()
    declared = module.declare_intrinsic(
        "llvm.prefetch", (byte,), ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
    )
    with loop(builder, PLACE(0), length, LINE // size, []) as (c, _, _):
        place = builder.bitcast(builder.gep(start, [c]), byte)
        builder.call(declared, [place, I32(0), I32(3), I32(1)])
    builder.ret_void()
    return function

"""Products of blocks that fit the nearest caches, for kernels whose operands never leave them.

    c (rows, columns) = a (rows, depth) @ b (depth, columns)        or c += a @ b

BLAS is at its best on large matrices; between the two products of attention a block of scores is used once and
forgotten. A tile of 4 x 16 sums stays in registers while the depth is walked: of each step 16 numbers of b and 4 of a
are read for 64 multiplications. LLVM splits 16 floats into what the machine's registers hold.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from xplm_numpy.jit import serial

ROWS, COLUMNS = 4, 16
FLOAT, PLACE = ir.FloatType(), ir.IntType(64)
VECTOR = ir.VectorType(FLOAT, COLUMNS)
FUSED = ("contract",)  # a product and a sum may be one instruction


@serial()
def put_product(a, a_at, a_row, a_step, b, b_at, c, c_at, rows, depth, columns, is_added):
    """c = a @ b or c += a @ b for a block of each array, which begins at the place `at`, counted in numbers.

    a is read at a_at + r a_row + d a_step, so that a transposed array is one with its strides exchanged. b and c are
    2-D and dense; rows and columns are multiples of the tile's.
    """
    b_row, c_row = b.shape[1], c.shape[1]
    for j in range(0, columns, COLUMNS):
        for i in range(0, rows, ROWS):
            here = c_at + i * c_row + j
            put_tile(
                a, a_at + i * a_row, a_row, a_step, b, b_at + j, b_row, c, here, c_row, depth, is_added
            )  # fmt: skip


@intrinsic
def put_tile(
    typing_context, a, a_at, a_row, a_step, b, b_at, b_row, c, c_at, c_row, depth, is_added
):
    """One tile of `put_product`."""
    if not all(isinstance(x, types.Array) and x.dtype == types.float32 for x in (a, b, c)):
        return None

    def generate(context, builder, signature, arguments):
        def place(array, at):
            data = context.make_array(signature.args[array])(context, builder, arguments[array])
            return builder.gep(data.data, [arguments[at]])

        function = _tile_function(builder.module)
        rest = (arguments[i] for i in (2, 3, 6, 9, 10, 11))
        builder.call(function, [place(0, 1), place(4, 5), place(7, 8), *rest])
        return context.get_dummy_value()

    n = types.intp
    return types.void(a, n, n, n, b, n, n, c, n, n, n, types.boolean), generate


def _tile_function(module):
    """The tile as a function of its own: copied into each place that calls it, it would be compiled as often."""
    name = f"xplm_put_tile_{ROWS}x{COLUMNS}"
    if name in module.globals:
        return module.globals[name]
    pointer = FLOAT.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer] * 3 + [PLACE] * 5 + [ir.IntType(1)])
    function = ir.Function(module, kind, name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")

    builder = ir.IRBuilder(function.append_basic_block())
    a, b, c, a_row, a_step, b_row, c_row, depth, is_added = function.args

    def vector_at(base, index):
        return builder.bitcast(builder.gep(base, [index]), VECTOR.as_pointer())

    rows = [PLACE(row) for row in range(ROWS)]
    targets = [vector_at(c, builder.mul(c_row, row)) for row in rows]
    sums = [builder.alloca(VECTOR) for _ in rows]
    nothing = ir.Constant(VECTOR, [0.0] * COLUMNS)
    for total, target in zip(sums, targets, strict=True):
        before = builder.load(target, align=4)
        builder.store(builder.select(is_added, before, nothing), total)
    with cgutils.for_range(builder, depth, intp=PLACE) as loop:
        columns = builder.load(vector_at(b, builder.mul(b_row, loop.index)), align=4)
        step = builder.mul(a_step, loop.index)
        for row, total in zip(rows, sums, strict=True):
            number = builder.load(builder.gep(a, [builder.add(step, builder.mul(a_row, row))]))
            product = builder.fmul(_spread(builder, number), columns, flags=FUSED)
            builder.store(builder.fadd(builder.load(total), product, flags=FUSED), total)
    for total, target in zip(sums, targets, strict=True):
        builder.store(builder.load(total), target, align=4)
    builder.ret_void()
    return function


def _spread(builder, number):
    """A vector of one number."""
    index = ir.IntType(32)
    one = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), number, index(0))
    zeros = ir.Constant(ir.VectorType(index, COLUMNS), [0] * COLUMNS)
    return builder.shuffle_vector(one, one, zeros)

"""Dot products of a few rows with four, in one order of sums whatever is computed beside them.

    out[r, i] = sum over c of x[r, c] w[i, c]           r of 1, 2 or 3 rows, i of four

Lane j of a vector of LANES adds up the products of c = j, j + LANES, ... in that order, a product and a sum rounded
once where the processor does both at once. The lanes are then added in pairs, (0 + 1) + (2 + 3) and so on, and what is
left of the row behind the last whole vector one by one. None of that depends on the number of rows or on which four
they meet, so neither do the bits of a sum; LLVM, left to vectorise a loop, takes another order for every shape of it.

Both operands are read along c, so nothing is packed. Numbers of w are widened in the vector, whatever they are stored
in. Three rows by four fill the sixteen registers of AVX2 and read 7 vectors for 12 products.
"""

from functools import partial

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from xplm_numpy.jit import exact
from xplm_numpy.vectors import (
    FLOAT,
    I32,
    KEPT,
    LANES,
    NUMBERS,
    PLACE,
    data_of,
    fused_multiply_add,
    halved,
    load,
    loop,
    named_function,
    pick,
)

COLUMNS = 4
MOST_ROWS = 3


def _tile(rows):
    @intrinsic
    def put_dots(
        typing_context, x, x_at, x_row, w, w0, w1, w2, w3, length, out, o0, o1, o2, o3, out_row, is_added
    ):  # fmt: skip
        if not (x.dtype == out.dtype == types.float32 and w.dtype in NUMBERS):
            return None

        def generate(context, builder, signature, arguments):
            x, w, out = (
                data_of(context, builder, signature.args[i], arguments[i]) for i in (0, 3, 9)
            )
            function = _tile_function(builder.module, rows, w.type.pointee)
            weights = [builder.gep(w, [arguments[i]]) for i in range(4, 8)]
            targets = [builder.gep(out, [arguments[i]]) for i in range(10, 14)]
            x_row, length, out_row, is_added = (arguments[i] for i in (2, 8, 14, 15))
            x = builder.gep(x, [arguments[1]])
            builder.call(function, [x, *weights, *targets, x_row, length, out_row, is_added])
            return context.get_dummy_value()

        n = types.intp
        arrays = (x, n, n, w, n, n, n, n, n, out, n, n, n, n, n)
        return types.void(*arrays, types.boolean), generate

    return put_dots


put_dots_1, put_dots_2, put_dots_3 = map(_tile, range(1, MOST_ROWS + 1))
"""out = the products of 1, 2 or 3 rows of x with four of w, or out += these.

    put_dots_1(x, x_at, x_row, w, w0, w1, w2, w3, length, out, o0, o1, o2, o3, out_row, is_added)

x, out: float32; w: as stored. Places are counted in numbers of dense arrays: the first row of x begins at x_at, the
next x_row after it; those of w at w0 .. w3; the results of the first row go to o0 .. o3, of the next out_row after.
"""


@intrinsic
def dot(typing_context, a, a_at, b, b_at, length):
    """The dot product of two stretches of dense arrays, each as stored, from a_at and b_at on."""
    if not (a.dtype in NUMBERS and b.dtype in NUMBERS):
        return None

    def generate(context, builder, signature, arguments):
        pair = [
            builder.gep(
                data_of(context, builder, signature.args[i], arguments[i]), [arguments[i + 1]]
            )
            for i in (0, 2)
        ]
        return builder.call(_dot_function(builder.module, *pair), [*pair, arguments[4]])

    n = types.intp
    return types.float32(a, n, b, n, n), generate


@intrinsic
def highest(typing_context, a, at, length):
    """The largest of a stretch of a dense float32 array, NaN aside; -inf if it is empty."""
    if a.dtype != types.float32:
        return None

    def generate(context, builder, signature, arguments):
        place = builder.gep(
            data_of(context, builder, signature.args[0], arguments[0]), [arguments[1]]
        )
        return builder.call(_highest_function(builder.module), [place, arguments[2]])

    n = types.intp
    return types.float32(a, n, n), generate


@intrinsic
def _multiply_add(typing_context, a, b, c):
    def generate(context, builder, signature, arguments):
        return fused_multiply_add(builder, *arguments, "f32")

    return types.float32(types.float32, types.float32, types.float32), generate


@exact()
def multiply_add(a, b, c):
    """a b + c of float32, rounded once where the processor has an instruction for it."""
    return _multiply_add(a, b, c)


def _tile_function(module, rows, number):
    """`put_dots_1`, `put_dots_2` or `put_dots_3`, of weights that are such numbers."""
    pointer, source = FLOAT.as_pointer(), number.as_pointer()
    given = [pointer, *[source] * COLUMNS, *[pointer] * COLUMNS, *[PLACE] * 3, ir.IntType(1)]
    name = f"xplm_put_dots_{rows}x{COLUMNS}x{LANES}_{number}"
    function, builder, is_known = named_function(
        module, name, ir.FunctionType(ir.VoidType(), given)
    )
    if is_known:
        return function
    x, weights, targets = function.args[0], function.args[1:5], function.args[5:9]
    x_row, length, out_row, is_added = function.args[9:]
    starts = [builder.gep(x, [builder.mul(x_row, PLACE(r))]) for r in range(rows)]

    whole = builder.and_(length, PLACE(-LANES))
    zeros = [ir.Constant(ir.VectorType(FLOAT, LANES), [0.0] * LANES)] * rows * COLUMNS
    sums = _add_products(builder, starts, weights, PLACE(0), whole, LANES, zeros)
    totals = []
    for r in range(rows):
        four = _add_lanes(builder, sums[r * COLUMNS : (r + 1) * COLUMNS])
        totals += [pick(builder, four, four, [i]) for i in range(COLUMNS)]
    totals = _add_products(builder, starts, weights, whole, length, 1, totals)

    for r in range(rows):
        places = [builder.gep(target, [builder.mul(out_row, PLACE(r))]) for target in targets]
        before = [builder.load(place) for place in places]  # all, for two targets may be one
        for i, place in enumerate(places):
            total = builder.extract_element(totals[r * COLUMNS + i], I32(0))
            added = builder.fadd(before[i], total, flags=KEPT)
            builder.store(builder.select(is_added, added, total), place)
    builder.ret_void()
    return function


def _add_products(builder, xs, weights, begin, end, lanes, sums):
    """The sums of all pairs of rows after the products of c = begin .. end - 1 are added, `lanes` at a time."""
    with loop(builder, begin, end, lanes, sums) as (c, before, after):
        rows = [load(builder, x, c, lanes) for x in xs]
        columns = {}
        for i, weight in enumerate(weights):
            w = load(builder, weight, c, lanes)
            for r, row in enumerate(rows):
                at = r * len(weights) + i
                columns[at] = fused_multiply_add(builder, row, w, before[at], f"v{lanes}f32")
        after += [columns[at] for at in range(len(sums))]
    return after


def _dot_function(module, a, b):
    """`dot`: four vectors at a time, then one, then one number."""
    name = f"xplm_dot_{LANES}_{a.type.pointee}_{b.type.pointee}"
    kind = ir.FunctionType(FLOAT, [a.type, b.type, PLACE])
    function, builder, is_known = named_function(module, name, kind)
    if is_known:
        return function
    a, b, length = function.args
    total, begin = ir.Constant(ir.VectorType(FLOAT, 4 * LANES), [0.0] * 4 * LANES), PLACE(0)
    for lanes in (4 * LANES, LANES, 1):
        total = halved(builder, total, lanes, partial(builder.fadd, flags=KEPT))
        end = builder.and_(length, PLACE(-lanes))
        (total,) = _add_products(builder, [a], [b], begin, end, lanes, [total])
        begin = end
    builder.ret(builder.extract_element(total, I32(0)))
    return function


def _highest_function(module):
    """`highest`: a vector at a time, then one number."""
    kind = ir.FunctionType(FLOAT, [FLOAT.as_pointer(), PLACE])
    function, builder, is_known = named_function(module, f"xplm_highest_{LANES}", kind)
    if is_known:
        return function
    a, length = function.args

    def larger(x, y):
        return builder.select(builder.fcmp_ordered(">", x, y, flags=KEPT), x, y)

    best, begin = ir.Constant(ir.VectorType(FLOAT, LANES), [float("-inf")] * LANES), PLACE(0)
    for lanes in (LANES, 1):
        best = halved(builder, best, lanes, larger)
        end = builder.and_(length, PLACE(-lanes))
        with loop(builder, begin, end, lanes, [best]) as (c, (before,), after):
            after.append(larger(load(builder, a, c, lanes), before))
        (best,) = after
        begin = end
    builder.ret(builder.extract_element(best, I32(0)))
    return function


def _add_lanes(builder, four):
    """A vector of four: the lanes of each of four vectors added in pairs."""

    def pairs(a, b):
        """Per half of 8 lanes, as one instruction does it: two sums of a, two of b."""
        even = pick(builder, a, b, [0, 2, 8, 10, 4, 6, 12, 14])
        odd = pick(builder, a, b, [1, 3, 9, 11, 5, 7, 13, 15])
        return add(even, odd)

    add = partial(builder.fadd, flags=KEPT)
    four = [halved(builder, v, 8, add) for v in four]
    halves = pairs(pairs(four[0], four[1]), pairs(four[2], four[3]))
    return halved(builder, halves, 4, add)

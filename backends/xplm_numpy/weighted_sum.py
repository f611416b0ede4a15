"""Weighted sums of vectors, one after another, for a few rows of weights.

    sums[r, d] += sum over s of probs[r, s] v[s, d]         r of 1, 2 or 3 rows, s = begin .. end - 1 in that order

Each product and sum is rounded once where the processor does both at once; a sum depends on nothing but its own row.
Stretches of d stay in registers while s runs: three rows by four vectors fill those of AVX2 and read 7 for 12 products.
"""

from functools import partial

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from xplm_numpy.vectors import (
    FLOAT,
    I32,
    LANES,
    NUMBERS,
    PLACE,
    data_of,
    fused_multiply_add,
    load,
    loop,
    named_function,
)

MOST_ROWS = 3


def _tile(rows):
    @intrinsic
    def add_weighted(
        typing_context, probs, p_at, p_row, v, v_at, v_row, begin, end, width, sums, s_at, s_row
    ):
        if not (probs.dtype == sums.dtype == types.float32 and v.dtype in NUMBERS):
            return None

        def generate(context, builder, signature, arguments):
            kinds = signature.args
            starts = [
                builder.gep(data_of(context, builder, kinds[i], arguments[i]), [arguments[i + 1]])
                for i in (0, 3, 9)
            ]
            function = _tile_function(builder.module, rows, starts[1].type.pointee)
            others = [arguments[i] for i in (2, 5, 11, 6, 7, 8)]
            builder.call(function, [*starts, *others])
            return context.get_dummy_value()

        n = types.intp
        return types.void(probs, n, n, v, n, n, n, n, n, sums, n, n), generate

    return add_weighted


add_weighted_1, add_weighted_2, add_weighted_3 = map(_tile, range(1, MOST_ROWS + 1))
"""Add to the sums of 1, 2 or 3 rows.

    add_weighted_1(probs, p_at, p_row, v, v_at, v_row, begin, end, width, sums, s_at, s_row)

probs, sums: float32; v: as stored. Places are counted in numbers of dense arrays: the weight of s = 0 in the first row
is at p_at, in the next p_row after it; v[0] begins at v_at and v[s + 1] v_row after v[s]; the first row's sums begin at
s_at. width: numbers of a sum.
"""


def _tile_function(module, rows, number):
    """One of the three, of vectors of such numbers."""
    pointer, source = FLOAT.as_pointer(), number.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, source, pointer, *[PLACE] * 6])
    name = f"xplm_add_weighted_{rows}x{LANES}_{number}"
    function, builder, is_known = named_function(module, name, kind)
    if is_known:
        return function
    probs, v, sums, p_row, v_row, s_row, begin, end, width = function.args
    weights = [builder.gep(probs, [builder.mul(p_row, PLACE(r))]) for r in range(rows)]
    targets = [builder.gep(sums, [builder.mul(s_row, PLACE(r))]) for r in range(rows)]

    first = PLACE(0)
    for lanes in (4 * LANES, LANES, 1):
        last = builder.and_(width, PLACE(-lanes))
        with loop(builder, first, last, lanes, []) as (d, _, _):
            _add_stretch(builder, weights, v, v_row, targets, begin, end, d, lanes)
        first = last
    builder.ret_void()
    return function


def _add_stretch(builder, weights, v, v_row, targets, begin, end, d, lanes):
    """The sums of d .. d + lanes - 1 of all rows."""
    places = [
        builder.bitcast(builder.gep(target, [d]), ir.VectorType(FLOAT, lanes).as_pointer())
        for target in targets
    ]
    before = [builder.load(place, align=4) for place in places]
    spread = partial(_spread, builder, lanes)
    with loop(builder, begin, end, 1, before) as (s, totals, after):
        vector = load(builder, builder.gep(v, [builder.mul(s, v_row)]), d, lanes)
        for weight, total in zip(weights, totals, strict=True):
            factor = spread(load(builder, weight, s, 1))
            after.append(fused_multiply_add(builder, factor, vector, total, f"v{lanes}f32"))
    for place, total in zip(places, after, strict=True):
        builder.store(total, place, align=4)


def _spread(builder, lanes, one):
    """A vector of one number in all places."""
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))

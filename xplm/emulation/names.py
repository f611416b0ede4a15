"""The functions that an emulated namespace has, by what rounding they need."""

# fmt: off
DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32",
    "float64",
)
"""The dtypes that the standard names and every library has: they pass through."""

CONSTANTS = ("e", "inf", "nan", "newaxis", "pi")

MOVES = frozenset((
    "abs", "broadcast_to", "concat", "empty", "empty_like", "expand_dims", "flip",
    "matrix_transpose", "max", "min", "moveaxis", "ones", "ones_like", "permute_dims", "positive",
    "repeat", "reshape", "roll", "sort", "squeeze", "stack", "take", "take_along_axis", "tile",
    "tril", "triu", "unstack", "zeros", "zeros_like",
))
"""Functions whose results are numbers of their arguments, or 0 or 1: in every format already, and not rounded."""

COMPUTES = frozenset((
    "acos", "acosh", "add", "arange", "asarray", "asin", "asinh", "atan", "atan2", "atanh", "ceil",
    "clip", "copysign", "cos", "cosh", "cumulative_sum", "divide", "exp", "expm1", "floor",
    "floor_divide", "full", "full_like", "hypot", "linspace", "log", "log10", "log1p", "log2",
    "logaddexp", "maximum", "mean", "minimum", "multiply", "negative", "pow", "prod", "reciprocal",
    "remainder", "round", "sign", "sin", "sinh", "sqrt", "square", "std", "subtract", "sum", "tan",
    "tanh", "trunc", "var", "where",
))
"""Functions whose results are rounded, where their arguments have a format; the choosers among them because a Python
number to choose need not be in it."""

TELLS = frozenset((
    "all", "any", "argmax", "argmin", "argsort", "bitwise_and", "bitwise_invert", "bitwise_or",
    "bitwise_xor", "count_nonzero", "equal", "greater", "greater_equal", "isfinite", "isinf",
    "isnan", "less", "less_equal", "logical_and", "logical_not", "logical_or", "logical_xor",
    "nonzero", "not_equal", "searchsorted", "signbit", "unique_values",
))
"""Functions whose results are truth values or integers, which have no format."""

OPERATORS = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift",
    "rshift",
)
"""Operators of two arguments, by the names in their methods; all but comparisons have a reflected method too."""

COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
# fmt: on

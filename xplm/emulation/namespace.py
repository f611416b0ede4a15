"""A namespace around another, whose arrays have formats."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

from xplm.emulation.array import Emulated, make_array_type
from xplm.emulation.names import COMPUTES, CONSTANTS, DTYPES, MOVES, TELLS
from xplm.formats import Format, round_to
from xplm.typing import Array, DType, Namespace

ACCUMULATE_BLOCK = 16
"""Terms of a sum that `accumulate` adds up before it rounds: what a tensor core takes in at a time."""


Rounding: TypeAlias = Callable[[Array, Format], Array]
"""Takes the numbers of an array, float32 or float64, into a format; the dtype stays."""


class FormatInfo(NamedTuple):
    """What `finfo` says of a format."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: Format


@dataclass(frozen=True)
class Products:
    """How matrix products run; None rounds nothing."""

    matmul: Format | None  # operands
    accumulate: Format | None  # partial sums
    multiply: Callable[[Array, Array, str], Array | None] | None = (
        None  # `Blas.multiply_narrow` of a backend
    )


class EmulatedNamespace:
    """Another namespace's functions, on wrapped arrays: those in `names`, and the methods below."""

    def __init__(self, xp: Namespace, products: Products, rounding: Rounding = round_to) -> None:
        """Wrap a namespace."""
        self._xp = xp
        self._products = products
        self._round = rounding
        self._array = make_array_type(self)
        self.__name__ = f"xplm.emulation.{xp.__name__}"
        for name in [*DTYPES, *CONSTANTS]:
            setattr(self, name, getattr(xp, name))
        self._floating: dict[DType, bool] = {}  # of the dtypes seen

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """A function of the wrapped namespace, wrapped when it is first asked for."""
        if name not in MOVES | COMPUTES | TELLS:
            raise AttributeError(f"{self.__name__} has no {name}")
        function = partial(self.apply, getattr(self._xp, name), moves=name in MOVES)
        setattr(self, name, function)
        return function

    def apply(
        self, function: Callable[..., Any], *args: Any, moves: bool = False, **options: Any
    ) -> Any:
        """function on the arrays inside, its result wrapped, and rounded to the format of the arguments.

        Args:
            function: of the wrapped namespace.
            args: its arguments, wrapped arrays among them, or lists of them.
            moves: the result is in the format already.
            options: its options; a `dtype` that is a Format says the result's.
        """
        format = self._format_of(args)
        if "dtype" in options:
            dtype = options["dtype"]
            if dtype is not None:
                format = dtype if isinstance(dtype, Format) else None
            if isinstance(dtype, Format):
                options["dtype"] = self._xp.float32
        options = {name: self.inside(option) for name, option in options.items()}
        return self.wrap(function(*self.inside(args), **options), format, is_rounded=moves)

    def inside(self, value: Any) -> Any:
        """The array inside a wrapped one; of a tuple or list, each; else the value as it is."""
        if isinstance(value, tuple | list):
            return type(value)(self.inside(part) for part in value)
        return value.data if isinstance(value, self._array) else value

    def wrap(self, result: Any, format: Format | None = None, *, is_rounded: bool = False) -> Any:
        """An array of the wrapped namespace, in a format if it is floating; of a tuple, each; else as it is."""
        if isinstance(result, tuple | list):
            return tuple(self.wrap(part, format, is_rounded=is_rounded) for part in result)
        if not hasattr(result, "dtype"):
            return result
        if format is None or not self._is_floating(result.dtype):
            return self._array(result, None)
        return self._array(result if is_rounded else self._round(result, format), format)

    def astype(self, x: Emulated, dtype: DType, /, *, copy: bool = True) -> Emulated:
        """x in another dtype, or rounded to a format."""
        data, xp = x.data, self._xp
        if not isinstance(dtype, Format):
            same = data.dtype == dtype
            return self._array(data if same and not copy else xp.astype(data, dtype), None)
        if x.format == dtype and not copy:
            return x
        if data.dtype != xp.float64:
            data = self._widen(data)
        data = self._round(data, dtype)  # of float64 at once: rounding twice could differ
        return self._array(self._widen(data, xp.float32), dtype)

    def matmul(self, a: Emulated, b: Emulated, /) -> Emulated:
        """The product, operands and partial sums rounded as the policy says."""
        format = self._format_of((a, b))
        x, y = a.data, b.data
        matmul, accumulate = self._products.matmul, self._products.accumulate
        is_floating = self._is_floating(x.dtype) and self._is_floating(y.dtype)
        if not is_floating or (matmul is None and accumulate is None):
            return self.wrap(self._xp.matmul(x, y), format)

        dtype = x.dtype if x.dtype == y.dtype else None  # the result's
        x, y = self._widen(x), self._widen(y)
        if matmul is not None:
            x, y = self._round(x, matmul), self._round(y, matmul)
        product = self._matmul(x, y) if accumulate is None else self._blocks(x, y, accumulate)
        return self.wrap(product if format else self._widen(product, dtype), format)

    def _matmul(self, x: Array, y: Array) -> Array:
        """x @ y of operands that are rounded: by instructions for their format, where the backend has them."""
        matmul, multiply = self._products.matmul, self._products.multiply
        product = None
        if matmul is not None and multiply is not None and x.ndim == y.ndim == 2:
            product = multiply(x, y, matmul.name)
        return self._xp.matmul(x, y) if product is None else product

    def _blocks(self, x: Array, y: Array, accumulate: Format) -> Array:
        """x @ y, ACCUMULATE_BLOCK terms of each sum at a time."""
        total = None
        K = x.shape[-1]
        for begin in range(0, K, ACCUMULATE_BLOCK):
            terms = slice(begin, min(begin + ACCUMULATE_BLOCK, K))
            rows = y[terms] if y.ndim == 1 else y[..., terms, :]
            part = self._round(self._xp.matmul(x[..., terms], rows), accumulate)
            total = part if total is None else self._round(total + part, accumulate)
        return self._xp.matmul(x, y) if total is None else total

    def isdtype(self, dtype: DType, kind: Any) -> bool:
        """Whether a dtype is of a kind; a format is real floating."""
        if not isinstance(dtype, Format):
            return bool(self._xp.isdtype(dtype, kind))
        kinds = kind if isinstance(kind, tuple) else (kind,)
        return any(k in ("real floating", "numeric") or k == dtype for k in kinds)

    def finfo(self, dtype: DType) -> Any:
        """The limits of a floating dtype or format."""
        if not isinstance(dtype, Format):
            return self._xp.finfo(dtype)
        bits = 1 + dtype.exponent_bits + dtype.mantissa_bits
        return FormatInfo(bits, dtype.eps, dtype.max, -dtype.max, dtype.smallest_normal, dtype)

    def _format_of(self, args: Any) -> Format | None:
        """The one format that all floating arrays among the arguments have, or None."""
        formats: set[Format | None] = set()
        for arg in args:
            if isinstance(arg, tuple | list):
                formats.update(a.format for a in arg if isinstance(a, self._array))
            elif isinstance(arg, self._array) and self._is_floating(arg.data.dtype):
                formats.add(arg.format)
        return formats.pop() if len(formats) == 1 else None

    def _is_floating(self, dtype: DType) -> bool:
        if dtype not in self._floating:  # isdtype is for the standard's dtypes: bfloat16 is none
            whole = [name for name in DTYPES if "float" not in name]
            self._floating[dtype] = all(dtype != getattr(self._xp, name) for name in whole)
        return self._floating[dtype]

    def _widen(self, data: Array, dtype: DType | None = None) -> Array:
        """An array of the wrapped namespace in a dtype: float32, or float64 where it has that already."""
        if dtype is None:
            dtype = data.dtype if data.dtype == self._xp.float64 else self._xp.float32
        return data if data.dtype == dtype else self._xp.astype(data, dtype)


@cache
def emulated_namespace(xp: Namespace, products: Products) -> EmulatedNamespace:
    """One namespace for each way of computing, so that arrays of equal policies mix."""
    return EmulatedNamespace(xp, products)

"""Matrix products of a prompt and of a training step: xplm's, and the library's own call on threads of its own."""

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from xplm_numpy.blas import product
from xplm_numpy.gemm import PLAIN, ROW_MAJOR, TRANSPOSED
from xplm_numpy.libraries import FLOAT32, Library, find_library, mkl_file, use_blas

from bench.blas import describe_blas
from bench.turns import repeated

SECONDS = 0.05
"""Of one shape in one turn."""

GNU_THREADS = 3  # MKL_THREADING_GNU: the OpenMP runtime that numba's kernels use on Linux, too


class Shape(NamedTuple):
    """A product of x (R, C), weight (N, C) and dy (R, N)."""

    what: str  # "y = x w^T", "dx = dy w", "dw = dy^T x"
    R: int
    N: int
    C: int

    def __str__(self) -> str:
        """The product and its sizes."""
        return f"{self.what}, {self.R} x {self.N} x {self.C}"


FORWARD, BACK, WEIGHT = "y = x w^T", "dx = dy w", "dw = dy^T x"
SMOLLM2 = ((576, 576), (192, 576), (1536, 576), (576, 1536))
STEPS = {
    12 * 256: ((384, 384), (1024, 384), (384, 1024)),
    8 * 256: ((288, 288), (768, 288), (288, 768)),
}
STEPS |= {8 * 80: ((128, 128), (256, 128), (128, 256))}
SHAPES = {
    "prompt": [Shape(FORWARD, R, N, C) for R in (32, 128, 256, 2048) for N, C in SMOLLM2],
    "step": [
        Shape(what, R, N, C)
        for R, sizes in STEPS.items()
        for N, C in sizes
        for what in (FORWARD, BACK, WEIGHT)
    ],
}  # fmt: skip
"""By part: SmolLM2-135M's for prompts of four lengths; those of models of width 384, 288 and 128."""

BLAS = ("openblas", "mkl")
OURS, ITSELF = "xplm by {}", "{} itself"


def system_names() -> list[str]:
    """xplm by each library that is here, beside the library itself."""
    here = BLAS if mkl_file() is not None else BLAS[:1]
    return [name.format(blas) for blas in here for name in (OURS, ITSELF)]


def make_multiplier(options: dict[str, Any]) -> tuple[str, Callable[[Any], dict[str, float]]]:
    """What a system is, and how it measures the shapes of a part: FLOP a second, by shape."""
    make = {OURS.format(blas): partial(_ours, blas) for blas in BLAS}
    make |= {ITSELF.format(blas): partial(_itself, blas) for blas in BLAS}
    multiply, description = make[options["name"]](options["threads"])

    def measure(part: str) -> dict[str, float]:
        return {str(shape): _rate(shape, multiply) for shape in SHAPES[part]}

    return description, measure


Multiply = Callable[[np.ndarray, np.ndarray, np.ndarray], Any]


def _ours(blas: str, threads: int) -> tuple[Multiply, str]:
    def multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
        with use_blas(blas):
            product(a, b, out)

    return multiply, f"xplm, {find_library(blas).version}"


def _itself(blas: str, threads: int) -> tuple[Multiply, str]:
    if blas == "openblas":
        return lambda a, b, out: np.matmul(a, b, out=out), describe_blas()
    library = ctypes.CDLL(str(mkl_file()))  # before xplm loads it, which then leaves its threads
    library.MKL_Set_Threading_Layer(GNU_THREADS)
    library.MKL_Set_Num_Threads(threads)
    return partial(
        _whole, find_library(blas)
    ), f"{find_library(blas).version}, threads of GNU's OpenMP"


def _whole(library: Library, a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    long, pointer, number = ctypes.c_longlong, ctypes.c_void_p, ctypes.c_float
    sgemm = ctypes.CFUNCTYPE(
        None, *[ctypes.c_int] * 3, *[long] * 3, number, pointer, long, pointer, long, number, pointer, long,
    )(library.gemm[FLOAT32])  # fmt: skip
    (M, K), N = a.shape, b.shape[1]
    (a_layout, a_lead), (b_layout, b_lead) = _layout(a), _layout(b)
    sgemm(
        ROW_MAJOR, a_layout, b_layout, M, N, K, 1.0, a.ctypes.data, a_lead,
        b.ctypes.data, b_lead, 0.0, out.ctypes.data, N,
    )  # fmt: skip


def _layout(matrix: np.ndarray) -> tuple[int, int]:
    """Of a dense matrix or its transpose."""
    is_plain = matrix.flags.c_contiguous
    return (PLAIN, matrix.shape[1]) if is_plain else (TRANSPOSED, matrix.shape[0])


def _rate(shape: Shape, multiply: Multiply) -> float:
    """FLOP a second of a product that is right."""
    _, R, N, C = shape
    rng = np.random.default_rng(0)
    x, w, dy = (rng.standard_normal(sizes, np.float32) for sizes in ((R, C), (N, C), (R, N)))
    a, b = {FORWARD: (x, w.T), BACK: (dy, w), WEIGHT: (dy.T, x)}[shape.what]
    out = np.empty((a.shape[0], b.shape[1]), np.float32)
    multiply(a, b, out)
    first = np.sum(a[0] * b.T, axis=1)  # NumPy's product would leave its threads spinning
    np.testing.assert_allclose(out[0], first, rtol=1e-3, atol=1e-3)
    _, seconds = repeated(lambda: multiply(a, b, out), SECONDS)
    return 2 * R * N * C / seconds

"""Which library multiplies, and in which format: the fastest here, measured once and kept beside the compiled kernels.

    float32               openblas or mkl, whichever are found
    bfloat16, float16     as they are stored, by a library that has the product and a processor that has instructions
                          for it; or widened, and then float32's

What is measured is two products of a prompt's and of a training step's sizes, on the threads of the first that needs to
know. Of two that are as good as equal the first is taken, so that noise does not decide. A choice holds for one
processor and one version of each library and of this package, whatever the number of threads, on which no result shall
depend. Where it cannot be kept, the last library is taken, MKL, for no result shall depend on the process either. A
choice changes the order of sums and nothing else.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from threading import Lock
from time import perf_counter
from typing import Any, NamedTuple

import ml_dtypes
import numba
import numpy as np
from llvmlite import binding

from xplm.errors import BackendError
from xplm_numpy.compiler import COMPILER
from xplm_numpy.gemm import multiply
from xplm_numpy.kernel_cache import own_stamp
from xplm_numpy.libraries import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    Library,
    find_library,
    find_mkl,
    find_openblas,
    missing_parts,
    mkl_file,
)
from xplm_numpy.whole import widened

SHAPES = ((256, 1536, 576), (1024, 384, 1024))
"""Rows, outputs and inputs: a prompt in SmolLM2-135M, and a step of a model of width 384."""

ROUNDS = 6
"""The best of these, taken in turn after one that does not count."""

CLEARLY = 1.05
"""Times as fast as the one before it a way must be."""

WIDENED = "widened"

SMALL = 64
"""Rows and columns of a product that is looked at, not timed."""

INSTRUCTIONS = {BFLOAT16: {"avx512bf16", "amx-bf16"}, FLOAT16: {"avx512fp16", "amx-fp16"}}
"""LLVM's names of the features of a processor that multiplies 16-bit numbers; either will do."""

Rates = dict[str, dict[str, float]]
"""FLOP a second, by the dtype of the operands and the way that they are multiplied."""

logger = logging.getLogger(__name__)


class Measured(NamedTuple):
    """What a choice is made by."""

    threads: int
    rates: Rates
    is_kept: bool = True  # for all processes


class _Process:
    """What this process knows."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.lock = Lock()
        self.measured: Measured | None = None


_process = _Process()


def _forget() -> None:
    """In a forked child, where whoever measures is not there."""
    global _process
    _process = _Process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def chosen(dtype: np.dtype) -> Library | None:
    """The library that multiplies operands of a dtype as they are stored; None: none does. Loads no other."""
    if mkl_file() is None:
        return find_openblas() if dtype == FLOAT32 else None
    return _fastest_library(dtype)


@cache
def _fastest_library(dtype: np.dtype) -> Library | None:
    can_be_kept = COMPILER.store.is_writable or _kept() is not None
    if not can_be_kept or not measured().is_kept:
        return next((one for one in reversed(libraries()) if multiplies(one, dtype)), None)
    ways = measured().rates.get(dtype.name)
    way = WIDENED if not ways else fastest(ways)
    return None if way == WIDENED else find_library(way)


@cache
def multiplies(library: Library, dtype: np.dtype) -> bool:
    """Whether a library is to multiply a dtype: it can, the processor helps, and the sums turn out to be float32's."""
    if dtype not in library.gemm:
        return False
    return dtype == FLOAT32 or (bool(INSTRUCTIONS[dtype] & features()) and adds_up(library, dtype))


@cache
def features() -> frozenset[str]:
    """What the processor has that kernels are compiled for: NUMBA_CPU_FEATURES, or all of it."""
    given = getattr(numba.config, "CPU_FEATURES", None)
    if given is not None:
        return frozenset(word[1:] for word in given.split(",") if word.startswith("+"))
    if getattr(numba.config, "CPU_NAME", None):
        return frozenset()  # another processor's than this one's
    try:
        return frozenset(
            name for name, is_there in binding.get_host_cpu_features().items() if is_there
        )
    except RuntimeError:  # LLVM does not know it
        return frozenset()


def adds_up(library: Library, dtype: np.dtype) -> bool:
    """Whether a product of 16-bit operands keeps float32's bits: 1 - 1 and 512 times 2^-18 between them.

    Either way the sum is exact in float32, in any order; a sum in 16 bits loses the small terms.
    """
    terms = 512
    small = np.full(terms, 2.0**-9)
    left = np.concatenate([[1.0], small, [-1.0]]).astype(dtype)
    right = np.concatenate([[1.0], small, [1.0]]).astype(dtype)
    rows, out = np.tile(left, (SMALL, 1)), np.empty((SMALL, SMALL), np.float32)
    columns = np.tile(right, (SMALL, 1)).T
    is_done = multiply(library, rows, columns, out)
    if not is_done or (out != np.float32(terms * 2.0**-18)).any():
        logger.warning("%s does not add %s products in float32: not used", library.version, dtype)
        return False
    return True


def flushes_subnormals(library: Library, dtype: np.dtype) -> bool:
    """Whether a product reads 16-bit operands below the smallest normal number as zeros: bfloat16's instructions do."""
    least = np.full((SMALL, SMALL), ml_dtypes.finfo(dtype).smallest_subnormal)
    out = np.empty((SMALL, SMALL), np.float32)
    multiply(library, least.astype(dtype), np.ones((SMALL, SMALL), dtype), out)
    return not out.all()


def fastest(ways: Mapping[str, float]) -> str:
    """The first of several ways, unless a later one is clearly faster."""
    best, *others = ways
    for way in others:
        if ways[way] > CLEARLY * ways[best]:
            best = way
    return best


def measured() -> Measured:
    """What each way gives: measured now, or as it was kept."""
    with _process.lock:
        if _process.measured is None:
            _process.measured = _kept() or _measure_and_keep()
        return _process.measured


def _kept() -> Measured | None:
    data = COMPILER.store.load(_file(), _key())
    return None if data is None else Measured(*json.loads(data))


def _measure_and_keep() -> Measured:
    threads, rates = numba.get_num_threads(), measure(libraries())
    if _kept() is None:  # else another process's counts, so that all make one choice
        COMPILER.store.save(_file(), _key(), json.dumps([threads, rates]).encode())
    return _kept() or Measured(threads, rates, is_kept=False)


def _file() -> str:
    """Of a choice, beside the compiled kernels: each environment that keeps some there has its own."""
    return f"products-{hashlib.sha256(_surroundings().encode()).hexdigest()[:16]}.nbc"


def _key() -> str:
    """What a choice depends on."""
    return f"{own_stamp()} {_surroundings()}"


def _surroundings() -> str:
    file, found = mkl_file(), find_openblas()
    openblas = "" if found is None else found.version
    mkl = ""
    if file is not None:
        mkl = f"{file} {file.stat().st_size} {file.stat().st_mtime_ns} {missing_parts(file)}"
    processor = binding.get_host_cpu_name(), sorted(features())
    return f"{np.__version__} {openblas} {mkl} {processor}"


def libraries() -> list[Library]:
    """Those that are here, OpenBLAS first."""
    found = find_openblas()
    here = [] if found is None else [found]
    if mkl_file() is not None:
        try:
            here.append(find_mkl())
        except BackendError as error:
            logger.warning("MKL is left out of the choice: %s", error)
    return here


def measure(here: Sequence[Library]) -> Rates:
    """FLOP a second of every way, for every dtype that some library multiplies as it is stored."""
    found: Rates = {"float32": best({library.name: (FLOAT32, _by(library)) for library in here})}
    for dtype in (BFLOAT16, FLOAT16):
        ways = {
            library.name: (dtype, _by(library)) for library in here if multiplies(library, dtype)
        }
        if ways:
            wide = find_library(fastest(found["float32"]))
            found[dtype.name] = best({WIDENED: (dtype, _widened_by(wide))} | ways)
    return found


Product = Callable[[np.ndarray, np.ndarray, np.ndarray], Any]


def _by(library: Library) -> Product:
    return lambda x, weight, out: multiply(library, x, weight.T, out)


def _widened_by(library: Library) -> Product:
    return lambda x, weight, out: multiply(library, widened(x), widened(weight).T, out)


def best(ways: Mapping[str, tuple[np.dtype, Product]]) -> dict[str, float]:
    """FLOP a second of each of some ways, which take turns."""
    totals = dict.fromkeys(ways, 0.0)
    for R, N, C in SHAPES:
        out = np.empty((R, N), np.float32)
        operands = {
            dtype: (np.ones((R, C), dtype), np.ones((N, C), dtype)) for dtype, _ in ways.values()
        }
        least = dict.fromkeys(ways, float("inf"))
        for round in range(ROUNDS + 1):
            for way, (dtype, run) in ways.items():
                began = perf_counter()
                run(*operands[dtype], out)
                seconds = perf_counter() - began
                least[way] = min(least[way], seconds) if round > 0 else least[way]
        for way, seconds in least.items():
            totals[way] += seconds
    flops = sum(2 * R * N * C for R, N, C in SHAPES)
    return {way: flops / seconds for way, seconds in totals.items()}

"""The libraries that multiply matrices: what is called of each, and how it is found.

    openblas    the one that NumPy's wheels bring, by the names that they give it
    mkl         Intel's, where its package `mkl` is installed, or an environment has it in its folder of libraries

Of both the C interface with 64-bit sizes is called, whose names end in 64, so that no interface has to be set. Finding
one loads it, and changes nothing of the process: MKL, if this is the first to load it, is told to start no threads, for
products are cut and given to the kernels' own; where something else has loaded it, its threads are as they were, and a
product holds their number at 1 in the thread that it runs in.
"""

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from threading import Lock

import ml_dtypes
import numpy as np

from xplm.errors import BackendError, did_you_mean

OPENBLAS, MKL, NUMPY = "openblas", "mkl", "numpy"
FLOAT32, FLOAT16 = np.dtype(np.float32), np.dtype(np.float16)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

LP64, SEQUENTIAL = 0, 1  # MKL_INTERFACE_LP64 and MKL_THREADING_SEQUENTIAL of mkl_service.h
VERSION_BYTES = 256
MKL_FILES = ("lib/libmkl_rt.so*", "lib/libmkl_rt*.dylib", "Library/bin/mkl_rt*.dll")
"""Where MKL lies in an environment: conda's, pip's on Linux, either on Windows."""

MKL_PARTS = ("core", "sequential", "def")
"""What it loads at its first product, the last where it knows nothing better for the processor."""

MKL_INTERFACE = "intel_lp64"
"""This, too, but for Windows, where mkl_rt holds it."""

MKL_NARROW = {BFLOAT16: "cblas_gemm_bf16bf16f32_64", FLOAT16: "cblas_gemm_f16f16f32_64"}
"""Its products of 16-bit operands, with sums and result in float32."""


@dataclass(frozen=True, eq=False)
class Library:
    """A library, with the addresses of its functions."""

    name: str  # as `--blas` has it
    version: str  # for people
    gemm: Mapping[np.dtype, int]  # cblas_?gemm with 64-bit sizes, by the dtype of both operands
    set_local_threads: int = 0  # of the calling thread, (n) -> n before; 0: there is none
    get_threads: int = 0  # of the process, () -> n; 0: it is not asked
    set_threads: int = 0  # likewise, (n)

    @property
    def thread_calls(self) -> tuple[int, int, int]:
        """What holds it at one thread."""
        return self.set_local_threads, self.get_threads, self.set_threads


_ASKED: ContextVar[str | None] = ContextVar("blas", default=None)
_loading = Lock()


def asked() -> str | None:
    """The library that products are to run by here; None: the fastest."""
    return _ASKED.get()


def use_blas(name: str) -> AbstractContextManager[None]:
    """Products run by a library while this is entered, in this thread or task.

    Args:
        name: "openblas", "mkl", or "numpy" for what NumPy calls, whole and on threads of its own.

    Raises:
        BackendError: it has another name, or is not there.
    """
    if name != NUMPY:
        find_library(name)
    return _using(name)


@contextmanager
def _using(name: str) -> Iterator[None]:
    token = _ASKED.set(name)
    try:
        yield
    finally:
        _ASKED.reset(token)


def find_library(name: str) -> Library:
    """The library of a name.

    Raises:
        BackendError: it has another name, or is not there.
    """
    if name == MKL:
        return find_mkl()
    if name != OPENBLAS:
        names = OPENBLAS, MKL, NUMPY
        raise BackendError(
            f'a blas is {", ".join(names)}; got "{name}"{did_you_mean(str(name), names)}'
        )
    if (found := find_openblas()) is None:
        raise BackendError(
            'blas "openblas" must be that of NumPy\'s wheels; this NumPy was built with another; '
            "use numpy or mkl"
        )
    return found


@cache
def find_openblas() -> Library | None:
    """NumPy's own; None where it was built with another BLAS, or other names."""
    library = ctypes.CDLL(import_module("numpy._core._multiarray_umath").__file__)
    try:
        sgemm = library.scipy_cblas_sgemm64_
        get_threads = library.scipy_openblas_get_num_threads64_
        set_threads = library.scipy_openblas_set_num_threads64_
        describe = library.scipy_openblas_get_config64_
    except AttributeError:
        return None
    describe.restype = ctypes.c_char_p
    words = (
        describe().decode().split()
    )  # "OpenBLAS 0.3.31 USE64BITINT DYNAMIC_ARCH ... Haswell MAX_THREADS=64"
    kernel = next((word for word in reversed(words) if "=" not in word), "")
    return Library(
        OPENBLAS,
        f"{' '.join(words[:2])} {kernel}",
        {FLOAT32: _address(sgemm)},
        get_threads=_address(get_threads),
        set_threads=_address(set_threads),
    )


@cache
def find_mkl() -> Library:
    """Intel's, loaded.

    Raises:
        BackendError: it is not installed, cannot be loaded, or is too old to have what is called.
    """
    file = mkl_file()
    if file is None:
        raise BackendError('blas "mkl" must be installed; it is not; use pip install mkl')
    if lacks := missing_parts(file):  # MKL ends the process that lacks one
        raise _broken(file, f"it lacks {lacks}")
    try:
        library = _load(file)
        addresses = {FLOAT32: _address(library.cblas_sgemm_64)}
        local = _address(library.MKL_Set_Num_Threads_Local)
        text = ctypes.create_string_buffer(VERSION_BYTES)
        library.MKL_Get_Version_String(text, VERSION_BYTES)
    except (OSError, AttributeError) as error:
        raise _broken(file, str(error)) from error
    for dtype, name in MKL_NARROW.items():
        if hasattr(library, name):
            addresses[dtype] = _address(getattr(library, name))
    words = text.value.decode().split()
    version = words[words.index("Version") + 1] if "Version" in words else "of unknown version"
    return Library(MKL, f"MKL {version.removesuffix('-Product')}", addresses, local)


def missing_parts(file: Path) -> str:
    """The libraries that should lie beside MKL's and do not."""
    parts = MKL_PARTS if file.suffix == ".dll" else (*MKL_PARTS, MKL_INTERFACE)
    names = {f"mkl_{part}": file.name.replace("mkl_rt", f"mkl_{part}") for part in parts}
    return ", ".join(part for part, name in names.items() if not file.with_name(name).exists())


def _load(file: Path) -> ctypes.CDLL:
    """MKL; the first to load it says how it is to run, whatever variables of the environment say."""
    with _loading:  # or a second Python thread would take it for somebody else's
        is_loaded = _is_loaded(file)
        library = ctypes.CDLL(str(file))
        if not is_loaded:
            library.MKL_Set_Interface_Layer(LP64)
            library.MKL_Set_Threading_Layer(SEQUENTIAL)
        return library


def _broken(file: Path, why: str) -> BackendError:
    return BackendError(
        f'blas "mkl" must be a whole MKL, 2024 or newer; {file} is not ({why}); '
        "use pip install --upgrade mkl"
    )


@cache
def mkl_file() -> Path | None:
    """MKL's library, which is not loaded for that; None: it is not installed."""
    return next(_mkl_files(), None)


def _mkl_files() -> Iterator[Path]:
    """The library that loads MKL's others, in this environment; the newest first."""
    for pattern in MKL_FILES:
        yield from sorted(Path(sys.prefix).glob(pattern), reverse=True)
    try:
        files = (
            distribution("mkl").files or []
        )  # installed elsewhere than in the environment's prefix
    except PackageNotFoundError:
        return
    for file in files:
        path = Path(str(file.locate()))
        if any(path.match(pattern.rpartition("/")[2]) for pattern in MKL_FILES) and path.is_file():
            yield path.resolve()


def _is_loaded(file: Path) -> bool:
    """Whether something else has loaded a library already; True where that cannot be asked."""
    if not hasattr(os, "RTLD_NOLOAD"):
        return True
    try:
        ctypes.CDLL(str(file), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return False
    return True


def _address(function: "ctypes._NamedFuncPointer") -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_loading.acquire, after_in_parent=_loading.release, after_in_child=_loading.release
    )

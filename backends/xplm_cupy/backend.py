"""CuPy's adapter.

What is missing, CuPy or a GPU, is said in one line with the command that installs it; nothing falls back to the CPU.
Half-precision products run as portable kernels do, in float32: batched BF16 products crash in CuPy 14.2.
"""

import ml_dtypes
import numpy as np

from xplm.backend import Backend, DeviceMemory
from xplm.errors import BackendError
from xplm.threads import limit_blas
from xplm.typing import Array

DEFAULT_DEVICE = "cuda"
"""The kind of device that this backend is the default of."""

INSTALL = 'pip install "cupy-cuda13x[ctk]" (CUDA 13) or pip install "cupy-cuda12x[ctk]" (CUDA 12)'

MAX_DIGITS = 9  # of a GPU's number that are read; no machine has so many


def make_backend(device: str) -> Backend:
    """CuPy on "cuda" or "cuda:N".

    Raises:
        BackendError: CuPy is not installed, there is no GPU or no driver for it, or no GPU has that number.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda":
        raise BackendError(f'backend "cupy" computes on a GPU; got --device {device}; use cuda')
    try:
        import array_api_compat.cupy as xp
        import cupy
    except ImportError as error:
        raise BackendError(f"--device cuda needs CuPy, which is missing; run: {INSTALL}") from error

    index = int(number.lstrip("0")[:MAX_DIGITS] or 0)
    gpus = _count_gpus(cupy)
    if index >= gpus:
        raise BackendError(f"--device {device:.40} is not there: GPUs are numbered 0 to {gpus - 1}")

    gpu = cupy.cuda.Device(index)
    gpu.use()  # new arrays of this thread go there
    pool = cupy.get_default_memory_pool()

    def memory() -> DeviceMemory:
        # The pool keeps what it once took, so what it holds is the most that was needed.
        free, total = gpu.mem_info
        return DeviceMemory(pool.used_bytes(), pool.total_bytes(), total, free + pool.free_bytes())

    def from_host(array: np.ndarray) -> Array:
        with gpu:
            return cupy.asarray(array)

    return Backend(
        name="cupy",
        device_name=f"cuda:{index}",
        device=gpu,
        xp=xp,
        dtypes={
            "float64": cupy.dtype("float64"),
            "float32": cupy.dtype("float32"),
            "float16": cupy.dtype("float16"),
            "bfloat16": cupy.dtype(ml_dtypes.bfloat16),
        },
        from_host=from_host,
        to_host=cupy.asnumpy,
        synchronize=gpu.synchronize,
        memory=memory,
        limit_threads=limit_blas,
    )


def _count_gpus(cupy: object) -> int:
    """How many GPUs the driver sees; none is an error that says what to install."""
    runtime = cupy.cuda.runtime  # type: ignore[attr-defined]
    try:
        gpus = int(runtime.getDeviceCount())
    except runtime.CUDARuntimeError as error:
        raise BackendError(
            "--device cuda needs an NVIDIA GPU and its driver, and CuPy finds none "
            f"({str(error).splitlines()[0]}); run nvidia-smi to see the driver, "
            "or install it with: apt-get install nvidia-driver"
        ) from error
    if gpus == 0:
        raise BackendError("--device cuda needs an NVIDIA GPU; the driver sees none; use cpu")
    return gpus

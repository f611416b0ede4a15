"""PyTorch's adapter.

Arrays are plain tensors without autograd: gradients are the kernels' own. torch knows nothing of NumPy's bfloat16, so
numbers of that format cross between host and device as integers of the same bits.

A switch of torch's own, which holds for the whole program, lets it round what float32 products multiply to TF32 or
bfloat16. A policy has to say that ("fp32,matmul=tf32"), so torch is refused where the switch is on.
"""

import ml_dtypes
import numpy as np

from xplm.backend import Backend, DeviceMemory, host_memory, is_memory_error
from xplm.errors import BackendError
from xplm.typing import Array

DTYPES = ("float64", "float32", "float16", "bfloat16")

MAX_DIGITS = 9  # of a GPU's number that are read; no machine has so many


def make_backend(device: str) -> Backend:
    """PyTorch on "cpu", "cuda" or "cuda:N".

    Raises:
        BackendError: PyTorch is not installed, it sees no such GPU, or float32 products would not be float32's.
    """
    try:
        import array_api_compat.torch as xp
        import torch
    except ModuleNotFoundError as error:
        raise BackendError(
            'backend "torch" needs PyTorch, which is missing; run: pip install torch'
        ) from error

    from xplm_torch.threads import limit_threads, serial_in_forks

    serial_in_forks()
    precision = torch.get_float32_matmul_precision()
    if precision != "highest":
        raise BackendError(
            f'PyTorch must not round float32 products; its float32_matmul_precision is "{precision}"; '
            'call torch.set_float32_matmul_precision("highest"), or unset TORCH_ALLOW_TF32_CUBLAS_OVERRIDE'
        )
    kind, _, number = device.partition(":")
    is_gpu = kind == "cuda"
    where = torch.device("cpu")
    if is_gpu:
        index, gpus = int(number.lstrip("0")[:MAX_DIGITS] or 0), torch.cuda.device_count()
        if index >= gpus:
            raise BackendError(
                f"--device {device:.40} is not there: PyTorch {torch.__version__} sees {gpus} GPUs; "
                "run nvidia-smi to see the driver's"
            )
        where = torch.device("cuda", index)

    def from_host(array: np.ndarray) -> Array:
        if array.dtype == ml_dtypes.bfloat16:
            return torch.tensor(array.view(np.int16), device=where).view(torch.bfloat16)
        return torch.tensor(array, device=where)

    def to_host(array: torch.Tensor) -> np.ndarray:
        host = array.cpu()
        if host.dtype == torch.bfloat16:
            return np.asarray(host.view(torch.int16)).view(ml_dtypes.bfloat16)
        return np.asarray(host)

    def synchronize() -> None:
        if is_gpu:
            torch.cuda.synchronize(where)

    def memory() -> DeviceMemory:
        if not is_gpu:
            return host_memory()
        used, peak = torch.cuda.memory_allocated(where), torch.cuda.max_memory_allocated(where)
        free, total = torch.cuda.mem_get_info(where)
        kept = torch.cuda.memory_reserved(where) - used  # by torch, of freed memory
        return DeviceMemory(used, peak, total, free + kept)

    def is_out_of_memory(error: Exception) -> bool:
        is_torchs = isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
        return is_torchs or is_memory_error(error)

    return Backend(
        name="torch",
        device_name=str(where),
        device=where,
        xp=xp,
        dtypes={name: getattr(torch, name) for name in DTYPES},
        from_host=from_host,
        to_host=to_host,
        synchronize=synchronize,
        memory=memory,
        is_out_of_memory=is_out_of_memory,
        limit_threads=limit_threads,
    )

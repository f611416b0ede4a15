"""Which BLAS NumPy calls: how fast it is depends on the kernel that it chose for this machine."""

from pathlib import Path

import numpy as np

LIBRARIES = Path(np.__file__).parents[1]  # other packages there bring a BLAS of their own


def describe_blas() -> str:
    """The BLAS that NumPy calls, and which of its kernels runs."""
    from threadpoolctl import threadpool_info

    names = [
        f"{pool['internal_api']} {pool['version']}, {pool.get('architecture', 'kernel not named')}, "
        f"{pool['num_threads']} threads"
        for pool in threadpool_info()
        if pool["user_api"] == "blas" and not is_of_another(Path(pool["filepath"]))
    ]
    return "; ".join(names) or "no BLAS that threadpoolctl knows"


def is_of_another(library: Path) -> bool:
    """Whether a library came with another package than NumPy."""
    if not library.is_relative_to(LIBRARIES):
        return False  # the system's
    return not library.relative_to(LIBRARIES).parts[0].startswith("numpy")

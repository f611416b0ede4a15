"""Programs in processes of their own, for which nothing is compiled but what the last one left."""

import os
import subprocess
import sys
from pathlib import Path


def run_with_kernels_in(folder: Path, program: str) -> list[str]:
    """The lines that a program prints, where numba keeps kernels in a folder."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"NUMBA_CACHE_DIR": str(folder)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()

"""Kernels that are compiled by two processes: the one that needs them begins with the first, and another with the last.

Compiling takes seconds a kernel and one core, and the order in which a command needs its kernels is known: decoding
comes after the prompt, and the way back after the way forward. What one process has compiled the other finds on disk.
"""

import atexit
import os
import subprocess
import sys
from functools import partial

from xplm.runtime import Runtime


def compile_ahead(rt: Runtime, task: str, kind: str) -> None:
    """Should a kernel have to be compiled, have a second process begin at the other end of a command's list.

    Args:
        rt: the command's.
        task: "generate" or "train".
        kind: of model, as `xplm.cli.compile_ahead` takes it.
    """
    program = ("-m", "xplm.cli.compile_ahead")
    rt.backend.before_compiling(partial(_start, [*program, task, kind, str(rt.policy)]))


def _start(arguments: list[str]) -> None:
    one_thread = {"NUMBA_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | one_thread,
    )
    atexit.register(process.kill)  # each kernel is whole on disk, or not there

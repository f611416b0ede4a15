"""Kernels that are compiled by two processes: the one that needs them begins with the first, and another with the last.

Compiling takes seconds a kernel and one core, and the order in which a command needs its kernels is known: decoding
comes after the prompt, and the way back after the way forward. What one process has compiled the other finds on disk.
"""

import atexit
import logging
import os
import subprocess
import sys
from functools import partial

import numpy as np

from xplm.precision import cast
from xplm.runtime import Runtime

logger = logging.getLogger(__name__)


def compile_ahead(rt: Runtime, task: str, kind: str) -> None:
    """Should a kernel have to be compiled, have a second process begin at the other end of a command's list.

    Args:
        rt: the command's.
        task: "generate" or "train".
        kind: of model, as `xplm.cli.compile_ahead` takes it.
    """
    if (os.cpu_count() or 1) > 1:
        program = [
            "-P",
            "-m",
            "xplm.cli.compile_ahead",
        ]  # -P: not from where the user happens to be
        rt.backend.before_compiling(partial(_start, [*program, task, kind, str(rt.policy)]))


def start_early(rt: Runtime) -> None:
    """Make logits of nothing: the kernel that every token needs, and if it has to be compiled, the second process now.

    That one has imported what it needs, then, when the first has read its weights.
    """
    nothing = rt.backend.from_host(np.zeros((1, 1), np.float32))
    rt.ops.linear_fwd(cast(nothing, rt.dtype.loss), cast(nothing, rt.dtype.param))


def _start(arguments: list[str]) -> None:
    """Its stdin is a pipe that nothing comes through: it ends when this process does, whatever ends that."""
    one_thread = {"NUMBA_NUM_THREADS": "1"}
    try:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | one_thread,
        )
    except OSError as error:
        logger.warning(
            "kernels are compiled by one process, for no second can be started: %s", error
        )
        return
    assert process.stdin is not None
    atexit.register(process.stdin.close)

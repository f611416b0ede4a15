"""Kernels that are compiled by two processes: the one that needs them begins with the first, and another with the last.

Compiling takes seconds a kernel and one core, and the order in which a command needs its kernels is known: decoding
comes after the prompt, and backward after forward. What one process has compiled, the other finds on disk.
"""

import logging
import os
import subprocess
import sys
from threading import Thread

import numpy as np

from xplm.precision import cast
from xplm.runtime import Runtime
from xplm.threads import count_cpus

logger = logging.getLogger(__name__)


def compile_ahead(rt: Runtime, task: str, kind: str) -> None:
    """Should a kernel have to be compiled, have a second process begin at the other end of a command's list.

    Args:
        rt: the command's.
        task: "generate" or "train".
        kind: of model, as `xplm.cli.compile_ahead` takes it.
    """
    if count_cpus() > 1:
        program = ["-P", "-m", "xplm.cli.compile_ahead"]  # -P: not from the working directory
        where = [rt.backend.library, rt.backend.device_name]
        helper = _Helper([*program, task, kind, str(rt.policy), *where])
        _helpers.append(helper)
        rt.backend.compiler.before_compiling(helper.start)


def stop_compiling_ahead() -> None:
    """The command is over: a second process that runs ends, and none starts any more."""
    while _helpers:
        _helpers.pop().stop()


def start_early(rt: Runtime) -> None:
    """Make logits of nothing: the kernel that every token needs, and if it has to be compiled, the second process now.

    That one has imported what it needs, then, when the first has read its weights.
    """
    nothing = rt.backend.from_host(np.zeros((1, 1), np.float32))
    rt.ops.linear_fwd(cast(nothing, rt.dtype.loss), cast(nothing, rt.dtype.param))


class _Helper:
    """A second process, not yet started."""

    def __init__(self, arguments: list[str]) -> None:
        self._arguments = arguments
        self._is_wanted = True
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._is_wanted:
            self._process = _start(self._arguments)

    def stop(self) -> None:
        self._is_wanted = False
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()


_helpers: list[_Helper] = []
"""Those of the command that runs."""


def _start(arguments: list[str]) -> "subprocess.Popen[bytes] | None":
    """Its stdin is a pipe that nothing comes through: it ends when that is closed, or this process ends."""
    try:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"NUMBA_NUM_THREADS": "1"},
        )
    except OSError as error:
        logger.warning(
            "kernels are compiled by one process, for no second can be started: %s", error
        )
        return None
    Thread(target=process.wait, daemon=True).start()  # or it would stay in the process table
    return process

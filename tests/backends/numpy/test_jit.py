"""Kernels on disk: when they are taken for stale, and what is said while they are compiled."""

import os
import subprocess
import sys

import numpy as np
import pytest
from xplm_numpy.announce import (
    before_compiling,
    compilations,
    note_compiled,
    note_compiling,
    note_waiting,
)
from xplm_numpy.compiler import COMPILER
from xplm_numpy.exp import exp
from xplm_numpy.whole import narrow_into

from tests.backends.numpy.fresh import run_with_kernels_in
from xplm.errors import KernelError

WITH_A_HELPER = """
import logging, sys
sys.path.insert(0, {folder!r})
import numba
import xplm_numpy.kernel_cache as disk
disk.own_stamp = lambda: disk.source_stamp(disk.Path({folder!r}))
import kernel
print(kernel.run(1), kernel.run._cache_hits[(numba.int64,)] if kernel.run._cache_hits else 0)
"""

FORWARD_AND_BACKWARD = """
import numpy as np
from xplm_numpy.kernels.rms_norm import forward, rms_norm_bwd, rms_norm_fwd
x, dy, weight = np.random.default_rng(0).standard_normal((3, 100, 48)).astype(np.float32)
y, saved = rms_norm_fwd(x, weight[0], eps=1e-5)
print(*(array.tobytes().hex() for array in (y, *rms_norm_bwd(dy, saved))))
print(sum(forward.__wrapped__._cache_hits.values()))
"""


def test_a_kernel_is_compiled_anew_when_a_function_of_another_file_has_changed(tmp_path):
    (tmp_path / "helper.py").write_text(
        "from xplm_numpy.jit import serial\n@serial()\ndef add(x):\n    return x + 1\n"
    )
    (tmp_path / "kernel.py").write_text(
        "from helper import add\nfrom xplm_numpy.jit import serial\n"
        "@serial()\ndef run(x):\n    return add(x)\n"
    )

    def run():
        program = WITH_A_HELPER.format(folder=str(tmp_path))
        command = [sys.executable, "-c", program]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert run() == ["2", "0"]
    assert run() == ["2", "1"]  # from the disk
    helper = tmp_path / "helper.py"
    helper.write_text(helper.read_text().replace("+ 1", "+ 5"))
    assert run() == ["6", "0"]


@pytest.mark.nightly
def test_bits_are_the_same_from_the_compiler_and_from_the_disk(tmp_path):
    """`_backward` calls a function that LLVM would not compile into it by itself."""

    (compiled, no_hits), (loaded, hits) = (
        run_with_kernels_in(tmp_path, FORWARD_AND_BACKWARD) for _ in range(2)
    )
    assert (no_hits, hits) == ("0", "1")
    assert compiled == loaded


FROM_THE_DISK = """
import numba
import numpy as np
from numba.core.runtime.nrt import rtsys
from xplm_numpy.kernels.swiglu import swiglu_fwd
x = np.ones((3, 40), np.float32)
first = swiglu_fwd(x, x)[0]
print(rtsys._init)
assert numba.njit(lambda n: np.ones(n).sum())(3) == 3.0
assert (swiglu_fwd(x, x)[0] == first).all()
print(rtsys._init)
"""


def test_what_is_on_disk_needs_no_compiler_and_another_kernel_finds_one(tmp_path):
    assert run_with_kernels_in(tmp_path, FROM_THE_DISK) == ["True", "True"]
    assert run_with_kernels_in(tmp_path, FROM_THE_DISK) == ["False", "True"]


KERNEL = """
import logging, os, sys, time
from pathlib import Path
import numpy as np
from xplm_numpy.whole import narrow_into
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
folder = Path(sys.argv[1])
(folder / f"ready-{os.getpid()}").touch()
while len(list(folder.glob("ready-*"))) < 2:
    time.sleep(0.001)
narrow_into(np.ones((2, 3), np.float32), np.ones((2, 3), np.uint16))
print(sum(narrow_into.__wrapped__._cache_hits.values()))
"""


def test_two_processes_compile_a_kernel_once_and_both_say_so(tmp_path):
    command = [sys.executable, "-c", KERNEL, str(tmp_path)]
    options = {"env": os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}, "text": True}
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, **options) for _ in range(2)]
    said, hits = zip(*[process.communicate()[0].splitlines() for process in both], strict=True)
    assert set(said) == {"compiling kernels for this machine, once; it takes about 15 seconds"}
    assert sorted(hits) == ["0", "1"]


def test_a_kernel_that_does_not_compile_is_refused_again_at_once_and_leaves_no_lock(caplog):
    flat = np.ones(3, np.float32), np.ones(3, np.uint16)
    narrow_into(np.ones((2, 3), np.float32), np.ones((2, 3), np.uint16))
    for _ in range(2):
        with pytest.raises(KernelError, match="narrow_into must compile; TypingError"):
            narrow_into(*flat)
    (line,) = caplog.messages
    assert line.endswith("its portable twin runs, slower")
    assert COMPILER.way == "whole"


def test_compilations_are_counted_and_the_first_that_is_stored_is_reported_once():
    calls, before = [], compilations()
    before_compiling(lambda: calls.append("called"))
    note_compiling(is_stored=False)
    assert not calls
    note_compiling(is_stored=True)
    note_compiling(is_stored=True)
    note_waiting()
    assert calls == ["called"]
    assert compilations() == before + 4


def test_each_compilation_is_a_line_of_the_log_with_the_count_so_far_and_then_it_is_over(caplog):
    before = compilations()
    with caplog.at_level("DEBUG", logger="xplm.progress"):
        note_compiling(is_stored=False)
        note_compiling(is_stored=False)
        note_compiled()
        note_compiled()  # of a kernel that was only loaded
    counts = [record.progress[1:] for record in caplog.records]
    assert counts == [(before + 1, None), (before + 2, None), (before + 2, before + 2)]


def test_exp_is_within_a_unit_of_the_last_place():
    x = np.linspace(-87.2, 88.2, 20001).astype(np.float32)
    y = np.array([exp(value) for value in x])
    true = np.exp(x.astype(np.float64))
    assert np.max(np.abs(y - true) / np.spacing(true.astype(np.float32))) <= 1.0
    specials = [exp(np.float32(value)) for value in (0.0, -np.inf, -200.0, np.inf, np.nan)]
    np.testing.assert_array_equal(specials, [1.0, 0.0, 0.0, np.inf, np.nan])

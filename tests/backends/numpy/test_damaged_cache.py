"""Whole commands of which a stored kernel is damaged: 40 give 40 right replies, each with at most one line."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.backends.numpy.test_kernel_cache import DAMAGE

KINDS = ("empty", "cut in the code", "noise", "zeros", "directory")


def generate(folder):
    """Tokens, functions compiled, and the lines of stderr."""
    command = [
        sys.executable, "-m", "xplm", "generate", "ROMEO:", "--model", "shakespeare",
        "--threads", "1", "--max-new-tokens", "4", "--json", "--quiet",
    ]  # fmt: skip
    done = subprocess.run(
        command, env=os.environ | {"NUMBA_CACHE_DIR": str(folder)},
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    reply = json.loads(done.stdout.splitlines()[-1])
    return reply["token_ids"], reply["timings"]["compilations"], done.stderr.splitlines()


@pytest.mark.nightly
def test_40_damaged_files_give_40_right_replies(tmp_path):
    good, cache = tmp_path / "good", tmp_path / "cache"
    right, _, _ = generate(good)
    assert generate(good) == (right, 0, [])
    kernels = sorted(lock.with_suffix("") for lock in good.rglob("*.lock"))  # parts have no locks
    assert len(kernels) * len(KINDS) >= 40
    for kind in KINDS:
        for kernel in kernels:
            shutil.copytree(good, cache)
            DAMAGE[kind](cache / kernel.relative_to(good))
            tokens, n_compiled, lines = generate(cache)
            assert tokens == right
            if n_compiled:  # a command loads most of the kernels that it writes without them
                (line,) = lines
                assert kernel.name in line
            assert generate(cache)[0] == right
            shutil.rmtree(cache)

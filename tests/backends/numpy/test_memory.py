"""What is reserved costs nothing yet, and small arrays lie in huge pages then."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import re, sys
import numpy as np
from xplm.backend import host_memory, load_backend
from xplm.cli.process import tune_process

tune_process()

backend = load_backend("numpy")
if sys.argv[1] == "reserved":
    before = host_memory().used
    backend.before_loading(2**28)
    print("grown", host_memory().used - before < 2**22)
arrays = [np.ones(2**18, np.float32) for _ in range(200)]  # 1 MiB each
address = arrays[100].__array_interface__["data"][0]
is_inside = False
for line in open("/proc/self/smaps"):
    bounds = re.match("([0-9a-f]+)-([0-9a-f]+) ", line)
    if bounds:
        is_inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
    elif is_inside and line.startswith("VmFlags"):
        print("huge", "hg" in line.split())
"""


@pytest.mark.parametrize("case", ["reserved", "as it comes"])
def test_reserved_memory_is_of_huge_pages(case):
    if not sys.platform.startswith("linux"):
        pytest.skip("NumPy asks for huge pages on Linux alone")
    command = [sys.executable, "-c", PROGRAM, case]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    has_them = Path("/sys/kernel/mm/transparent_hugepage").exists()
    is_reserved = case == "reserved"
    assert out == ["grown True"] * is_reserved + [f"huge {is_reserved and has_them}"]

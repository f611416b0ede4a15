"""Free memory, read from a /proc and a cgroup tree made for the test."""

import os
import subprocess
import sys

import pytest

import xplm.host_memory as module
from xplm.host_memory import DeviceMemory, free_memory, host_memory

KIB = 1024
V2_STAT = "anon 7\ninactive_file 30\nactive_file 20\nfile 900"
V1_STAT = "cache 9\ntotal_inactive_file 30\ntotal_active_file 20"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Write files below a machine's root; 1000 KiB are available, and malloc keeps nothing."""
    monkeypatch.setattr(module, "PROC", tmp_path / "proc")
    monkeypatch.setattr(module, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(module, "_kept_by_malloc", lambda: 0)

    def write(files):
        for name, text in {
            "proc/meminfo": "MemFree: 1 kB\nMemAvailable: 1000 kB\n",
            **files,
        }.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


def v2(folder, limit, usage):
    files = {"memory.max": limit, "memory.current": usage, "memory.stat": V2_STAT}
    return {f"cgroup/{folder}{name}": f"{text}\n" for name, text in files.items()}


def v1(folder, limit, usage):
    files = {
        "memory.limit_in_bytes": limit,
        "memory.usage_in_bytes": usage,
        "memory.stat": V1_STAT,
    }
    return {f"cgroup/memory/{folder}{name}": f"{text}\n" for name, text in files.items()}


@pytest.mark.parametrize(
    ("cgroup", "files", "free"),
    [
        pytest.param("", {}, 1000 * KIB, id="no cgroup"),
        pytest.param("0::/a/b", v2("a/b/", 5000, 1000), 4050, id="v2"),
        pytest.param("0::/a/b", v2("a/b/", "max", 1000), 1000 * KIB, id="v2 without a limit"),
        pytest.param(
            "0::/a/b", v2("a/b/", "max", 1) | v2("a/", 900, 600), 350, id="v2, the parent's"
        ),
        pytest.param("0::/a", v2("a/", 100, 900), 0, id="v2, over its limit"),
        pytest.param("4:cpu:/x\n3:memory:/a", v1("a/", 5000, 1000), 4050, id="v1"),
        pytest.param(
            "3:memory:/a", v1("a/", 2**63 - 4096, 1000), 1000 * KIB, id="v1 without a limit"
        ),
        pytest.param(
            "3:memory:/docker/1f", v1("", 5000, 1000), 4050, id="v1, seen from a container"
        ),
    ],
)
def test_free_is_the_least_that_meminfo_and_cgroups_leave(machine, cgroup, files, free):
    machine({"proc/self/cgroup": cgroup, **files})
    assert free_memory() == free


@pytest.mark.parametrize(("limit", "line"), [("RLIMIT_AS", "VmSize"), ("RLIMIT_DATA", "VmData")])
def test_a_limit_of_the_process_counts(machine, monkeypatch, limit, line):
    resource = pytest.importorskip("resource", reason="POSIX alone has limits")
    machine({"proc/self/status": f"{line}:\t 30 kB\n"})
    soft = {getattr(resource, limit): 100 * KIB}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft.get(kind, -1), -1))
    assert free_memory() == 70 * KIB


def test_what_malloc_keeps_is_free_too(machine, monkeypatch):
    machine({})
    monkeypatch.setattr(module, "_kept_by_malloc", lambda: 5)
    assert free_memory() == 1000 * KIB + 5


def test_where_the_platform_does_not_say_total_memory_is_the_limit(machine):
    assert free_memory() is None
    memory = host_memory()
    assert memory.free is None
    assert memory.limit == memory.total > 0
    assert DeviceMemory(0, 0, 0).limit is None


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="reads Linux's /proc")
def test_on_this_machine_what_is_held_is_not_free():
    # In a process of its own, and against a limit of its own: other processes change what the machine has.
    script = """
import resource
import numpy as np
from xplm.host_memory import host_memory
held = np.ones(2**23)
resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
before = host_memory()
del held  # 64 MiB, which the C library hands back
print(before.free, host_memory().free, before.total)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, after, total = map(int, run.stdout.split())
    assert 0.9 * 2**26 < after - before < 1.1 * 2**26
    assert after <= total

"""The host's memory: what this process holds, and what it could still get.

    used, peak   VmRSS and VmHWM of /proc/self/status; without /proc, getrusage's peak stands for both
    total        physical memory
    free         what the C library keeps of freed memory, and the least of
                     MemAvailable                  of /proc/meminfo
                     limit - usage + file cache    of every memory cgroup above this process, v1 or v2
                     RLIMIT_AS - VmSize, RLIMIT_DATA - VmData

Only Linux has all of this. The standard library cannot read free memory on macOS, and no memory at all on Windows:
there `free` is None, and on Windows the other figures are 0.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")

V1 = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)
V2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))
"""Files of a cgroup that hold its limit and its usage, and the lines of memory.stat that the kernel would reclaim."""


class DeviceMemory(NamedTuple):
    """What this process holds of a device's memory, and what it could still get, in bytes."""

    used: int  # now
    peak: int  # at most so far
    total: int  # the device has; 0: unknown
    free: int | None = None  # that an allocation could get now; None: unknown

    @property
    def limit(self) -> int | None:
        """The most that can be asked for: `free`, or `total` where that is unknown; None where both are."""
        return (self.total or None) if self.free is None else self.free


def host_memory() -> DeviceMemory:
    """The memory of this process on the host."""
    if not hasattr(os, "sysconf"):
        return DeviceMemory(0, 0, 0)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    status = _read_kib(PROC / "self" / "status")
    if "VmRSS" in status:  # getrusage's peak would include what a parent held before exec
        used = status["VmRSS"]
        return DeviceMemory(used, status.get("VmHWM", used), total, free_memory())
    import resource  # POSIX alone has it

    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return DeviceMemory(peak, peak, total, free_memory())


def free_memory() -> int | None:
    """Bytes that this process could still allocate on the host; None where the platform does not say."""
    available = _read_kib(PROC / "meminfo").get("MemAvailable")
    if available is None:
        return None
    least = min([available, *_left_in_cgroups(), *_left_of_limits()])
    return max(0, least) + _kept_by_malloc()


def _left_in_cgroups() -> Iterator[int]:
    """What each memory cgroup leaves. A container may see its own cgroup at the root, under another name."""
    for line in _read_lines(PROC / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount, names = CGROUPS, V2
        elif "memory" in controllers.split(","):
            mount, names = CGROUPS / "memory", V1
        else:
            continue
        parts = [part for part in path.split("/") if part]
        for n in range(len(parts) + 1):
            yield from _left_in_cgroup(mount.joinpath(*parts[:n]), *names)


def _left_in_cgroup(
    folder: Path, limit_file: str, usage_file: str, reclaimable: tuple[str, ...]
) -> Iterator[int]:
    limit, usage = (_read_lines(folder / name) for name in (limit_file, usage_file))
    if not limit or not usage or limit[0] == "max":
        return
    statistics = dict(line.split(maxsplit=1) for line in _read_lines(folder / "memory.stat"))
    cache = sum(int(statistics.get(name, 0)) for name in reclaimable)
    yield int(limit[0]) - int(usage[0]) + cache


def _left_of_limits() -> Iterator[int]:
    import resource  # POSIX alone has it; whoever calls this has found /proc

    status = _read_kib(PROC / "self" / "status")
    for limit, size in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY and size in status:
            yield soft - status[size]


class _MallInfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = (
        ("others", ctypes.c_size_t * 8),
        ("fordblks", ctypes.c_size_t),  # bytes in free blocks
        ("keepcost", ctypes.c_size_t),
    )


def _kept_by_malloc() -> int:
    """Bytes that were freed and stay with the process for later allocations; 0 where the C library does not say."""
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)  # glibc 2.33
    if mallinfo2 is None:
        return 0
    mallinfo2.restype = _MallInfo
    return int(mallinfo2().fordblks)


def _read_kib(path: Path) -> dict[str, int]:
    """The lines "NAME: N kB" of a file of /proc, in bytes; none where it is not there."""
    fields = [line.split() for line in _read_lines(path)]
    return {words[0][:-1]: int(words[1]) * 1024 for words in fields if words[2:] == ["kB"]}


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:  # not there, or not for this user
        return []

"""Copies between host and device, counted.

xplm copies by a backend's `from_host` and `to_host` and in no other way, so a backend whose two functions count sees
every copy. On a CPU, where host and device are one memory, it counts the same calls: what a GPU would have to move.
"""

from dataclasses import dataclass, replace

import numpy as np

from xplm.backend import Backend
from xplm.typing import Array


@dataclass
class Transfers:
    """What has been copied so far."""

    to_device: int = 0  # arrays
    to_device_bytes: int = 0
    to_host: int = 0  # arrays
    to_host_bytes: int = 0

    def since(self, earlier: "Transfers") -> "Transfers":
        """What has been copied after `earlier`, a copy of the same counts."""
        return Transfers(
            self.to_device - earlier.to_device,
            self.to_device_bytes - earlier.to_device_bytes,
            self.to_host - earlier.to_host,
            self.to_host_bytes - earlier.to_host_bytes,
        )


def count_transfers(backend: Backend) -> tuple[Backend, Transfers]:
    """The same backend, and what its copies come to from now on.

    Args:
        backend: any; its own copies are not counted.
    """
    so_far = Transfers()

    def from_host(array: np.ndarray) -> Array:
        so_far.to_device += 1
        so_far.to_device_bytes += array.nbytes
        return backend.from_host(array)

    def to_host(array: Array) -> np.ndarray:
        host = backend.to_host(array)
        so_far.to_host += 1
        so_far.to_host_bytes += host.nbytes
        return host

    return replace(backend, from_host=from_host, to_host=to_host), so_far

"""Sizes against free memory, and the errors of array libraries that have none."""

from dataclasses import replace

import numpy as np
import pytest

from tests.on_backends import load_or_skip
from xplm.backend import DeviceMemory, load_backend
from xplm.errors import CheckpointError, OutOfMemoryError, XplmError
from xplm.out_of_memory import format_bytes, memory_faults, require_memory


def backend_with(memory):
    return replace(load_backend("numpy"), memory=lambda: memory)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 * 2**20, "1.5 GiB"),
        (2**70 - 1, "1024.0 EiB"),
        (2**70, "more than 1024 EiB"),
        (10**400, "more than 1024 EiB"),
    ],
)
def test_sizes_have_units(n_bytes, text):
    assert format_bytes(n_bytes) == text


@pytest.mark.parametrize(
    ("memory", "kind"),
    [
        (DeviceMemory(0, 0, 10**6, 1000), "free memory of cpu, 1000 B"),
        (DeviceMemory(0, 0, 1000), "memory of cpu, 1000 B"),
    ],
)
def test_what_does_not_fit_is_refused(memory, kind):
    backend = backend_with(memory)
    require_memory(backend, 1000, "arrays", "take fewer")
    with pytest.raises(OutOfMemoryError) as caught:
        require_memory(backend, 1001, "arrays", "take fewer")
    assert str(caught.value) == f"arrays must fit the {kind}; they take 1001 B; take fewer"


def test_where_nothing_is_known_nothing_is_refused():
    require_memory(backend_with(DeviceMemory(0, 0, 0)), 10**18, "arrays", "take fewer")


def test_the_host_has_a_limit_of_its_own():
    backend = backend_with(DeviceMemory(0, 0, 10**30, 10**30))
    require_memory(backend, 10**20, "batches", "take fewer")
    with pytest.raises(OutOfMemoryError, match=r"batches must fit the .*memory of the host"):
        require_memory(backend, 10**20, "batches", "take fewer", on_host=True)


@pytest.mark.parametrize("name", ["numpy", "strict", "torch", "jax"])
def test_a_librarys_failed_allocation_is_one_line(name):
    backend = load_or_skip(name, "cpu")
    n_numbers = 2**44  # whose 64 TiB no address space of 47 bits has room for beside what is there
    with (
        pytest.raises(OutOfMemoryError) as caught,
        memory_faults(backend, "the cache", "take fewer"),
    ):
        backend.xp.zeros((n_numbers, 8), dtype=backend.xp.float32)
    message = str(caught.value)
    assert message.startswith("the cache must fit the memory of cpu; got: ")
    assert "alloc" in message  # the library's own words
    assert message.endswith("; take fewer")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")])
def test_pythons_own_failures_count(error):
    with pytest.raises(OutOfMemoryError), memory_faults(load_backend("numpy"), "it", "take less"):
        raise error


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("x"), CheckpointError("x")])
def test_other_errors_pass(error):
    with pytest.raises(type(error)), memory_faults(load_backend("numpy"), "it", "take less"):
        raise error


def test_the_message_of_numpy_says_what_was_asked_for():
    expected = pytest.raises(XplmError, match=r"got: Unable to allocate 4\.00 EiB .* are free;")
    with expected, memory_faults(load_backend("numpy"), "it", "take less"):
        np.zeros(2**59)

import subprocess
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest

from xplm import backend as module
from xplm.backend import assign, load_backend
from xplm.errors import BackendError


def test_each_device_has_a_default():
    backend = load_backend()
    assert (backend.name, backend.device_name) == ("numpy", "cpu")
    assert load_backend(None, "cpu").name == "numpy"
    assert module.default_backend("cuda:1") == "cupy"


def test_a_default_is_declared_by_one_backend_alone(monkeypatch, caplog):
    adapters = {"a": "xplm_numpy.backend", "b": "xplm_numpy.backend", "c": "xplm_nonesuch"}
    entries = [
        EntryPoint(name, f"{value}:make_backend", "xplm.backends")
        for name, value in adapters.items()
    ]
    monkeypatch.setattr(module, "entry_points", lambda group: entries)
    with pytest.raises(
        BackendError,
        match="the default on cpu must be one backend; got a, b; give --backend, one of a, b, c",
    ):
        load_backend()
    with pytest.raises(BackendError, match="the default on cuda must be one backend; got none"):
        module.default_backend("cuda")
    del entries[1]
    caplog.clear()
    assert module.default_backend("cpu") == "a"
    (line,) = caplog.messages
    assert "backend c is no default: xplm_nonesuch cannot be imported" in line


@pytest.mark.parametrize("device", ["gpu", "", "cuda:x", "cuda:-1", "mps", "cpuu"])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(BackendError, match="a device is cpu, cuda or cuda:N"):
        load_backend(None, device)


def test_an_unknown_backend_is_refused_with_the_installed_ones():
    with pytest.raises(BackendError, match=r'no backend named "jaxx"; installed: .*numpy') as error:
        load_backend("jaxx")
    assert "\n" not in str(error.value)


def entry_points_with(value):
    entry = EntryPoint("other", value, "xplm.backends")
    return lambda group: [entry] if group == "xplm.backends" else []


def make_nothing(device):
    return device


def test_anybodys_package_can_add_a_backend(monkeypatch):
    monkeypatch.setattr(
        module, "entry_points", entry_points_with("xplm_numpy.backend:make_backend")
    )
    assert load_backend("other").name == "numpy"
    with pytest.raises(BackendError, match="installed: other"):
        load_backend("numpy")


def test_a_package_that_names_what_it_has_not_is_said(monkeypatch):
    monkeypatch.setattr(module, "entry_points", entry_points_with("xplm_nonesuch:make_backend"))
    assert module.backend_names() == ["other"]
    with pytest.raises(
        BackendError, match=r"No module named 'xplm_nonesuch'.*reinstall the package"
    ):
        load_backend("other")


def test_what_is_not_a_backend_is_refused(monkeypatch):
    monkeypatch.setattr(module, "entry_points", entry_points_with(f"{__name__}:make_nothing"))
    with pytest.raises(
        BackendError, match=r"must return a xplm\.backend\.Backend; got <class 'str'>"
    ):
        load_backend("other")


def test_host_memory_is_plausible():
    # In a process of its own: here, other tests' arrays may be given back between the two readings.
    script = """
import numpy as np
from xplm.backend import host_memory
before = host_memory()
held = np.ones(2**24)
after = host_memory()
print(before.used, after.used, after.peak, after.total)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, used, peak, total = map(int, run.stdout.split())
    n_bytes = 2**24 * 8
    assert used - before > 0.9 * n_bytes
    assert used <= peak <= total
    assert total > 2**28


def test_assign_writes_and_returns_the_array():
    array = np.zeros(3)
    assert assign(array, slice(1, 3), np.ones(2)) is array
    assert array.tolist() == [0, 1, 1]

"""Where numba cannot be used, the portable kernels run, and one line says so."""

import pytest
from numba.core import config
from xplm_numpy import backend, kernels

from tests.backends.missing import without
from xplm.backend import load_backend
from xplm.kernels import PORTABLE
from xplm.runtime import make_runtime


@pytest.fixture(autouse=True)
def nothing_is_loaded():
    """The table is read once in a process; here by each test, and by none that follows."""
    load = backend.load_fused
    load.cache_clear()
    yield
    load.cache_clear()


def test_without_numba(monkeypatch, caplog):
    without(monkeypatch, "numba")
    assert [load_backend("numpy").kernels for _ in range(2)] == [{}, {}]
    (line,) = caplog.messages  # once in a process
    assert "numba cannot be used (ModuleNotFoundError" in line
    assert line.endswith("the portable kernels run, slower")


def test_whatever_numba_raises_the_portable_kernels_run(monkeypatch, caplog):
    monkeypatch.delattr(kernels, "FUSED")
    assert load_backend("numpy").kernels == {}
    (line,) = caplog.messages
    assert "cannot import name 'FUSED'" in line


def test_portable_kernels_do_not_import_the_fused_ones(monkeypatch):
    monkeypatch.setattr(backend, "load_fused", None)
    rt = make_runtime(load_backend("numpy"), "fp32", "portable")
    assert rt.ops.gelu_fwd is PORTABLE["gelu_fwd"]


@pytest.mark.parametrize("is_disabled", [0, 1])
def test_where_numba_is_told_to_compile_nothing(monkeypatch, caplog, is_disabled):
    monkeypatch.setattr(config, "DISABLE_JIT", is_disabled)
    assert (load_backend("numpy").kernels == {}) == bool(is_disabled)
    assert (
        caplog.messages
        == ["numba is told to compile nothing: the portable kernels run, slower"] * is_disabled
    )

"""Where numba cannot be used, the portable kernels run, and one line says so."""

import pytest
from numba.core import config

from tests.backends.missing import without
from xplm.backend import load_backend


def test_without_numba(monkeypatch, caplog):
    without(monkeypatch, "numba")
    assert load_backend("numpy").kernels == {}
    (line,) = caplog.messages
    assert "numba cannot be used (ModuleNotFoundError" in line
    assert line.endswith("the portable kernels run, slower")


@pytest.mark.parametrize("is_disabled", [0, 1])
def test_where_numba_is_told_to_compile_nothing(monkeypatch, caplog, is_disabled):
    monkeypatch.setattr(config, "DISABLE_JIT", is_disabled)
    assert (load_backend("numpy").kernels == {}) == bool(is_disabled)
    assert (
        caplog.messages
        == ["numba is told to compile nothing: the portable kernels run, slower"] * is_disabled
    )

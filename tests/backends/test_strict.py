"""array-api-strict: a release that the backend cannot compute with is refused in one line."""

import array_api_strict
import numpy as np
import pytest

from tests.backends.missing import without
from xplm.backend import load_backend
from xplm.errors import BackendError


def test_a_release_that_keeps_its_arrays_from_numpy_is_refused(monkeypatch):
    def refuse(array, *_, **__):
        raise TypeError("Interoperation with NumPy requires python >= 3.12")

    monkeypatch.setattr(type(array_api_strict.zeros(1)), "__array__", refuse)
    monkeypatch.setattr(type(array_api_strict.zeros(1)), "__buffer__", refuse, raising=False)
    with pytest.raises(TypeError):
        np.asarray(array_api_strict.zeros(1))
    with pytest.raises(BackendError, match=r'pip install "array-api-strict>=2\.4\.1"'):
        load_backend("strict")


def test_without_the_library_the_line_says_what_to_install(monkeypatch):
    without(monkeypatch, "array_api_strict")
    with pytest.raises(BackendError, match="pip install"):
        load_backend("strict")

"""The places that kernels, layers and models are tested on."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.metadata import entry_points
from typing import Any

import numba
import pytest

from tests.helpers import Place
from tests.on_backends import (  # noqa: F401 - pytest finds its hooks here
    load_or_skip,
    pytest_addoption,
    pytest_collection,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_make_collect_report,
    pytest_runtest_makereport,
)
from tests.places import DTYPES, LOCATIONS, parameter
from xplm.backend import Backend, load_backend
from xplm.train import curves, loop


def has_float64(name: str) -> AbstractContextManager[None]:
    """While this is entered a backend has float64: JAX's switch is turned, and the others always have it."""
    if name != "jax":
        return nullcontext()
    return pytest.importorskip("jax", reason="needs JAX: pip install jax").enable_x64(True)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Fused kernels take one thread unless a test asks for more: who waits for another spins on some worker's core."""
    numba.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def packages_are_searched_once() -> Iterator[None]:
    """For backends, on each path: it takes 6 ms, and most tests load one."""
    search = cache(lambda group, path: entry_points(group=group))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xplm.backend.entry_points", lambda group: search(group, tuple(sys.path)))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_curves() -> Iterator[None]:
    """Drawing takes longer than a tiny run: runs of this process do without, unless a test has `draws_curves`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "can_draw", lambda: False)
        yield


@pytest.fixture
def draws_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run draws its curves, as it does for users."""
    pytest.importorskip("matplotlib", reason=f"curves need matplotlib; {curves.INSTALL}")
    monkeypatch.setattr(loop, "can_draw", curves.can_draw)


@pytest.fixture
def on_threads() -> Iterator[Callable[..., Any]]:
    """on_threads(n, function, ...): a call under n threads, where there are as many."""
    before = numba.get_num_threads()

    def call(n: int, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))
        return function(*arguments, **options)

    yield call
    numba.set_num_threads(before)


@pytest.fixture(params=[parameter(location) for location in LOCATIONS])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Every backend, with float64, on every address space that it has here."""
    name, device = LOCATIONS[request.param[0]]
    with has_float64(name):
        yield load_or_skip(name, device)


@pytest.fixture(params=[parameter(loc, dtype) for loc in LOCATIONS for dtype in DTYPES[loc]])
def place(request: pytest.FixtureRequest) -> Place:
    """Every backend with every dtype that it has."""
    location, dtype = request.param
    return Place(load_or_skip(*LOCATIONS[location]), dtype)


@pytest.fixture
def numpy_backend() -> Backend:
    """NumPy, for what needs no second backend."""
    return load_backend("numpy")


@pytest.fixture
def device1() -> Backend:
    """array-api-strict's second address space, which raises where a copy through the host is made in silence."""
    return load_backend("strict", "cuda")

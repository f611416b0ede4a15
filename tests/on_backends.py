"""Which backends the suite runs on, and what a skip means there: hooks of pytest that tests/conftest.py takes in.

A test, or one set of its parameters, that belongs to one backend is marked `backend(NAME)`, CuPy's with `cuda`.
`pytest --backend NAME` leaves out those of all others; without it they all run. What is not marked is never left out.
A test marked `nightly_on(NAME)` runs nightly on that backend, and always on the others.

A backend that is not installed skips with the reason. NumPy is always there: a skip under its mark is a failure.
"""

import gc
import os
from collections.abc import Generator
from typing import Any

import pytest

from xplm.backend import Backend, load_backend
from xplm.errors import BackendError

NAMES = ("numpy", "torch", "jax", "strict", "cupy")


def on(name: str) -> pytest.MarkDecorator:
    """The mark of what runs on a backend."""
    return pytest.mark.cuda if name == "cupy" else pytest.mark.backend(name)


def load_or_skip(name: str, device: str = "cpu") -> Backend:
    """A backend; skips the test, with the reason, where its library or device is missing."""
    try:
        return load_backend(name, device)
    except BackendError as error:
        pytest.skip(str(error))


def backend_of(item: pytest.Item) -> str | None:
    """The backend that an item is marked with."""
    if item.get_closest_marker("cuda"):
        return "cupy"
    mark = item.get_closest_marker("backend")
    return None if mark is None else mark.args[0]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        choices=("all", *NAMES),
        default="all",
        help="run what belongs to this backend, and what belongs to none; if not given, all",
    )


def pytest_configure(config: pytest.Config) -> None:
    """JAX compiles every op for every shape: what one process has compiled is on disk for all others, and next time."""
    if hasattr(config, "cache"):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir("jax")))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """What is collected stays to the end: Python's garbage collector looks at none of it, now or during the tests.

    Of what these make it looks at more at a time: what is compiled and imported is much, and stays as well.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)


@pytest.hookimpl(tryfirst=True)  # before -m chooses by marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        mark = item.get_closest_marker("nightly_on")
        if mark is not None and backend_of(item) in mark.args:
            item.add_marker(pytest.mark.nightly)
    items.sort(key=lambda item: item.get_closest_marker("first") is None)
    chosen = config.getoption("--backend")
    if chosen == "all":
        return
    left_out = [item for item in items if backend_of(item) not in (None, chosen)]
    items[:] = [item for item in items if backend_of(item) in (None, chosen)]
    config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and backend_of(item) == "numpy":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"NumPy's tests are never skipped; this one was: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    report = yield
    if report.skipped:  # a module that skips as a whole would take NumPy's tests with it
        report.outcome = "failed"
        report.longrepr = f"skip tests one by one, not a module of them: {report.longrepr[2]}"
    return report

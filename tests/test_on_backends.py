"""The suite's own rules: what `--backend` leaves out, and that nothing of NumPy's is skipped."""

import pytest

from tests.paths import ROOT

pytest_plugins = ["pytester"]

CONFTEST = """
from tests.on_backends import (
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_make_collect_report,
    pytest_runtest_makereport,
)
"""
MARKED = """
import pytest
from tests.on_backends import on

@pytest.mark.parametrize("name", [pytest.param(n, marks=on(n)) for n in ("numpy", "torch", "cupy")])
def test_on(name):
    if name == SKIPPED:
        pytest.skip("a library is missing")

def test_on_none():
    pass
"""


@pytest.fixture
def suite(pytester, monkeypatch):
    """Runs a suite of its own under the hooks."""
    monkeypatch.syspath_prepend(ROOT)
    pytester.makeconftest(CONFTEST)
    pytester.makeini(
        "[pytest]\naddopts = --strict-markers -p no:cacheprovider\nmarkers =\n  backend(name)\n  cuda\n"
    )

    def run(source, *arguments):
        pytester.makepyfile(source)
        return pytester.runpytest_inprocess(*arguments)

    return run


def test_every_backend_runs_unless_one_is_chosen(suite):
    suite(MARKED.replace("SKIPPED", "None")).assert_outcomes(passed=4)


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_one_backend_runs_with_what_belongs_to_none(suite, name):
    result = suite(MARKED.replace("SKIPPED", "None"), "--backend", name)
    result.assert_outcomes(passed=2, deselected=2)


def test_an_unknown_backend_is_refused(suite):
    result = suite(MARKED, "--backend", "nump")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*invalid choice: 'nump'*"])


def test_a_skip_elsewhere_stays_a_skip(suite):
    suite(MARKED.replace("SKIPPED", "'torch'")).assert_outcomes(passed=3, skipped=1)


def test_a_skip_on_numpy_fails_with_its_reason(suite):
    result = suite(MARKED.replace("SKIPPED", "'numpy'"))
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*NumPy's tests are never skipped*a library is missing*"])


@pytest.mark.parametrize(
    "skip", ["pytest.mark.skip(reason='marked')", "pytest.mark.usefixtures('absent')"]
)
def test_so_does_one_by_mark_or_by_fixture(suite, skip):
    source = f"""
import pytest
from tests.on_backends import on

@pytest.fixture
def absent():
    pytest.skip("a fixture's")

@{skip}
@pytest.mark.backend("numpy")
def test_marked():
    pass
"""
    result = suite(source)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*NumPy's tests are never skipped*"])


def test_a_module_may_not_skip_as_a_whole(suite):
    result = suite("import pytest\npytest.importorskip('no_such_library')\n")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*skip tests one by one*no_such_library*"])

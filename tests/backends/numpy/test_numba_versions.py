"""The kernels' tests, under the newest release of each minor version of numba that pyproject.toml admits."""

import re
import tomllib

import pytest

from tests.environments import make_environment, run
from tests.paths import ROOT

(ADMITTED,) = re.findall(
    r"^numba>=0\.(\d+),<0\.(\d+)$",
    "\n".join(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]),
    re.MULTILINE,
)
FLOOR, CEILING = map(int, ADMITTED)


@pytest.mark.nightly
@pytest.mark.parametrize("minor", range(FLOOR, CEILING))
def test_the_kernels_tests_pass_under_each_minor_version_of_numba(minor, tmp_path):
    python = make_environment(tmp_path / "venv", f"numba~=0.{minor}.0", has_ours=True)
    version = run(python, "-c", "import numba; print(numba.__version__)")
    assert version.startswith(f"0.{minor}.")
    run(
        python, "-m", "pytest", "-p", "no:cacheprovider", "--backend", "numpy",
        "tests/backends/numpy", "tests/kernels/fusions", NUMBA_CACHE_DIR=tmp_path / "kernels",
    )  # fmt: skip

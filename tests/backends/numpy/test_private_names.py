"""Each name private to numba, taken away: the kernels are compiled plainly, one line says so, and tokens are right."""

import shutil
import sys

import pytest

from tests.backends.numpy.private_names import SOURCE, private_names
from tests.environments import run

NAMES = private_names(SOURCE.read_text(encoding="utf-8"))


def generate_without(name, folder):
    """Lines of the log, and tokens."""
    program = "tests.backends.numpy.private_names"
    *lines, tokens = run(sys.executable, "-m", program, name, NUMBA_CACHE_DIR=folder).splitlines()
    return lines, tokens


@pytest.fixture(scope="module")
def plainly_compiled(tmp_path_factory):
    """A folder with what plain numba has compiled, and the tokens that all names give."""
    folder = tmp_path_factory.mktemp("plain")
    generate_without("JITCodeLibrary", folder)
    lines, tokens = generate_without("none of them", tmp_path_factory.mktemp("whole"))
    assert lines == []
    return folder, tokens


@pytest.mark.nightly
@pytest.mark.parametrize("name", NAMES)
def test_without_a_private_name_a_reply_is_right(name, plainly_compiled, tmp_path):
    folder, right = plainly_compiled
    shutil.copytree(folder, tmp_path / "kernels")
    lines, tokens = generate_without(name, tmp_path / "kernels")
    assert tokens == right
    assert len(lines) == 1, lines

"""The lowest versions that pyproject.toml admits are true."""

import re
import tomllib

import pytest

from tests.environments import make_environment, run
from tests.paths import ROOT

LOWEST = ROOT / "scripts" / "lowest.txt"
EXTRAS = ("strict", "plot", "test")
"""Beside what xplm needs; other extras hold gigabytes, or tools of development."""

SAMPLE = (
    "tests/backends/numpy/test_kernel_cache.py",
    "tests/kernels/test_attention.py",
    "tests/text/test_chat.py",
    "tests/text/test_tokenizer.py",
)


def floors(requirements):
    """{"numpy": "2.1"} of ["numpy>=2.1,<3", "xplm[plot]"]."""
    found = [re.match(r"([\w-]+)(?:\[.*\])?>=([\d.]+)", text) for text in requirements]
    return {match[1]: match[2] for match in found if match}


def test_the_lowest_versions_are_those_that_pyproject_admits():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for extra in EXTRAS for text in project["optional-dependencies"][extra]]
    admitted = floors([*project["dependencies"], *extras])
    lines = [line for line in LOWEST.read_text().splitlines() if not line.startswith("#")]
    assert lines == [f"{name}=={version}" for name, version in admitted.items()]
    every = [text for text in project["dependencies"] if not text.startswith("xplm")]
    assert len(floors(every)) == len(every)  # each has a floor


@pytest.mark.first
@pytest.mark.nightly
def test_the_lowest_versions_generate_train_and_pass_a_sample_of_the_tests(tmp_path):
    extras = ",".join(EXTRAS)
    python = make_environment(tmp_path / "venv", "--constraint", str(LOWEST), f"{ROOT}[{extras}]")
    kernels = {"NUMBA_CACHE_DIR": tmp_path / "kernels"}
    xplm = (python, "-m", "xplm")
    for backend in ("numpy", "strict"):
        run(
            *xplm, "generate", "ROMEO:", "--model", "shakespeare", "--max-new-tokens", "4",
            "--backend", backend, **kernels,
        )  # fmt: skip
        run(*xplm, "gradcheck", "--op", "attention", "--backend", backend, **kernels)

    (tmp_path / "a.txt").write_text("the cat sat on the mat. " * 100)
    recipe = tmp_path / "small.toml"
    recipe.write_text(
        "[model]\nhidden_size=32\nnum_hidden_layers=2\nnum_attention_heads=2\n"
        f'[data]\npath="{tmp_path}/a.txt"\ncontext=16\nbatch_size=4\n[train]\nsteps=4\n'
    )
    for backend in ("numpy", "strict"):
        run(*xplm, "train", recipe, "--out", tmp_path / backend, "--backend", backend, **kernels)
    run(python, "-m", "pytest", "-p", "no:cacheprovider", "--backend", "numpy", *SAMPLE, **kernels)

"""Environments with other versions of the libraries, made for a test."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.paths import ROOT


def make_environment(folder: Path, *pip: str, has_ours: bool = False) -> Path:
    """The Python of a new environment in which pip has installed something.

    Args:
        folder: where it is made.
        pip: arguments of `pip install`.
        has_ours: what the environment lacks is taken from the one of this process.
    """
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-compile", *pip)
    if has_ours:
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "zz_ours.pth").write_text(sysconfig.get_path("purelib"))
    return python


def run(*command: str | Path, **variables: str | Path) -> str:
    """What a command prints, run from the project's root with variables of the environment; it must succeed."""
    paths = f"{ROOT}{os.pathsep}{ROOT / 'backends'}"
    environment = os.environ | {"PYTHONPATH": paths} | {k: str(v) for k, v in variables.items()}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-5000:]}"
    return done.stdout

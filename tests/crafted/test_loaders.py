"""Mutated files and special files: each is read or refused in one line, at once and in bounded memory."""

import os
import subprocess
import sys

import pytest

from tests.crafted.attack import attack
from tests.crafted.loaders import LOADERS
from tests.paths import ROOT
from xplm.errors import XplmError

FEW = {"run": 20}  # of those that take long
SPECIAL = {
    "device": lambda path: path.symlink_to("/dev/zero"),
    "FIFO": os.mkfifo,
    "directory": lambda path: path.mkdir(),
    "nothing": lambda path: path.symlink_to("nowhere"),
    "sparse": lambda path: (path.touch(), os.truncate(path, 2**40)),
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_sample_of_mutated_files(name, tmp_path):
    outcome = attack(name, tmp_path / "files", FEW.get(name, 100), seed=0)
    assert not outcome.faults
    assert outcome.refused > 0


@pytest.mark.nightly
@pytest.mark.parametrize("name", LOADERS)
def test_two_thousand_mutated_files_in_bounded_memory(name):
    command = [sys.executable, "-m", "tests.crafted.attack", name, "2000", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.parametrize("name", [name for name in LOADERS if name != "run"])
def test_what_is_no_regular_file_of_moderate_size_is_refused(name, tmp_path):
    loader = LOADERS[name]
    for path in loader.make(tmp_path / "files"):
        content = path.read_bytes()
        for kind, make in SPECIAL.items():
            if kind == "sparse" and path.suffix in (".txt", ".jsonl"):  # which have no limit
                continue
            path.unlink()
            make(path)
            with pytest.raises(XplmError):
                loader.load(tmp_path / "files", path)
            path.rmdir() if kind == "directory" else path.unlink()
            path.write_bytes(content)

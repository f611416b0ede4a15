"""What README shows runs from a wheel: scripts/check_wheel.py reads it from README, and does so."""

import subprocess
import sys

import check_wheel
import pytest

from tests.paths import ROOT


def test_every_command_of_the_readme_is_taken():
    commands = check_wheel.readme_commands()
    assert len(commands) > 15
    for start in (*check_wheel.SHORTER, *check_wheel.JUDGE, *check_wheel.STDIN):
        assert [line for line in commands if line.startswith(start)], start


@pytest.mark.nightly
def test_every_command_runs_from_a_wheel_on_the_oldest_and_the_newest_python():
    script = ROOT / "scripts" / "check_wheel.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

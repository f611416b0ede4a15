"""The commands of README's table and its first Python example run from a wheel, by scripts/check_wheel.py."""

import subprocess
import sys

import check_wheel
import pytest

from tests.paths import ROOT


def test_every_command_of_the_table_is_taken():
    commands = check_wheel.readme_commands()
    assert len(commands) > 15
    for start in (*check_wheel.SHORTER, *check_wheel.JUDGE, *check_wheel.STDIN):
        assert [line for line in commands if line.startswith(start)], start


def test_a_command_that_does_not_end_has_failed(tmp_path, monkeypatch):
    def run(command, *_):
        raise subprocess.TimeoutExpired(command, check_wheel.LONGEST_SECONDS)

    monkeypatch.setattr(check_wheel, "run", run)
    chats = tmp_path / "lib/python/site-packages/xplm/train/recipes/data/facts-chat.jsonl"
    chats.parent.mkdir(parents=True)
    chats.touch()
    (tmp_path / "folder").mkdir()
    found = list(check_wheel.checks(tmp_path, tmp_path / "folder"))
    assert len(found) > len(check_wheel.readme_commands())
    assert {(is_right, why) for _, is_right, _, why in found} == {(False, "still ran after 600 s")}


@pytest.mark.first
@pytest.mark.nightly
def test_the_table_and_the_first_example_run_from_a_wheel_on_the_oldest_and_the_newest_python():
    script = ROOT / "scripts" / "check_wheel.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

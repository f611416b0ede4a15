"""Models by name, and where they are found on this machine."""

import os
from pathlib import Path

import pytest

from xplm.checkpoint.pull import default_home, pull, resolve
from xplm.errors import DownloadError


def test_a_known_name_is_resolved_below_home(tmp_path):
    names = ("smollm2-135m-instruct:q4_1", "smollm2-135m-instruct")
    for name in names:
        with pytest.raises(DownloadError, match=f"run: xplm pull {name}"):
            resolve(name, tmp_path)
    target = tmp_path / "models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"
    target.parent.mkdir(parents=True)
    target.touch()
    for name in names:
        assert resolve(name, tmp_path) == target
        assert pull(name, tmp_path) == target


def test_a_path_is_itself(tmp_path):
    assert resolve(tmp_path) == tmp_path
    assert pull(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    "name",
    ["", "nonsense", "./missing", "a/b/c", "/no/such/model.gguf", "n" * 5000, "a\0b", "~nobody/m"],
)
def test_a_name_that_means_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for find in (resolve, pull):
        with pytest.raises(
            DownloadError, match=r"a model is one of .*smollm2-135m-instruct:q4_1, .*got"
        ):
            find(name)


def test_the_default_home_is_the_users_cache_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_home() == tmp_path / "cache" / "xplm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_home().is_relative_to(Path.home())


def test_a_user_without_a_home_names_one(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where nobody knows the user
    with pytest.raises(DownloadError, match="set XPLM_HOME to a directory"):
        default_home()
    assert pull("shakespeare").is_dir()  # which needs none

"""Small JSON files that cannot be trusted, and directories that are whole or absent."""

import json
import os

import pytest

from xplm.checkpoint import files
from xplm.checkpoint.files import link_or_copy, new_directory, replacing, write_json
from xplm.checkpoint.untrusted import read_json_object
from xplm.errors import CheckpointError, ConfigError


def test_json_round_trip(tmp_path):
    value = {"a": [1, 2.5, None], "ž": "✓"}
    write_json(tmp_path / "x.json", value)
    assert read_json_object(tmp_path / "x.json") == value


@pytest.mark.parametrize(
    "content",
    [b"", b"nul", b"[1]", b"3", b"\xff\xfe", b"[" * 10**5, b'{"a": ' + b"9" * 5000 + b"}"],
)
def test_what_is_not_an_object_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"x\.json must hold"):
        read_json_object(tmp_path / "x.json", ConfigError)


def test_a_giant_file_is_not_read_whole(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"a": "b" * 100}))
    with pytest.raises(CheckpointError, match="at most 100 bytes"):
        read_json_object(tmp_path / "x.json", at_most=100)


def test_a_new_directory_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "deep" / "model"
    with new_directory(target) as partial:
        (partial / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert list(target.parent.iterdir()) == [target]


def test_an_empty_directory_is_taken_over(tmp_path):
    (tmp_path / "model").mkdir()
    with new_directory(tmp_path / "model") as partial:
        (partial / "a").write_text("1")
    assert (tmp_path / "model" / "a").exists()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path, error):
    with pytest.raises(error), new_directory(tmp_path / "model") as partial:  # noqa: PT012
        (partial / "a").write_text("1")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said(tmp_path):
    with (
        pytest.raises(CheckpointError, match="No space left"),
        new_directory(tmp_path / "model"),
    ):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious").write_text("1")
    with (
        pytest.raises(CheckpointError, match="must not exist yet"),
        new_directory(tmp_path / "model"),
    ):
        pytest.fail("the directory was handed out")
    assert (tmp_path / "model" / "precious").read_text() == "1"


@pytest.mark.parametrize("name", [".", "..", "a/..", "link", "dangling"])
def test_what_is_no_new_name_is_refused_before_the_work(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "dangling").symlink_to("nothing")
    with (
        pytest.raises(CheckpointError, match="must have a name of its own"),
        new_directory(files.Path(name)),
    ):
        pytest.fail("the directory was handed out")
    assert sorted(os.listdir(tmp_path)) == ["a", "dangling", "link"]


def test_directories_that_cannot_be_opened_are_not(tmp_path, monkeypatch):
    opened = []

    def open_file(path, *arguments):
        opened.append(path)
        assert not os.path.isdir(path)
        return posix_open(path, *arguments)

    posix_open, rename, descriptors = os.open, files.rename, "/proc/self/fd"

    def rename_closed(partial, path):
        if os.path.isdir(descriptors):
            there = [os.path.join(descriptors, name) for name in os.listdir(descriptors)]
            assert str(partial) not in [
                os.readlink(name) for name in there if os.path.lexists(name)
            ]
        rename(partial, path)

    monkeypatch.delattr(os, "O_DIRECTORY", raising=False)
    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(files, "rename", rename_closed)
    with new_directory(tmp_path / "model") as partial:
        (partial / "a").write_text("1")
    with replacing(tmp_path / "m") as file:
        file.write(b"2")
    assert (tmp_path / "model" / "a").read_text() == "1"
    assert (tmp_path / "m").read_bytes() == b"2"
    assert len(opened) == 1  # the file
    with pytest.raises(RuntimeError), replacing(tmp_path / "m"):
        raise RuntimeError
    assert sorted(os.listdir(tmp_path)) == ["m", "model"]


def test_a_refused_rename_or_lock_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("1")
    monkeypatch.setattr(files.Path, "replace", refuse)
    with pytest.raises(OSError, match="no links here"):
        link_or_copy(tmp_path / "a", tmp_path / "b")
    with pytest.raises(OSError, match="no links here"), replacing(tmp_path / "b"):
        pass
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(CheckpointError, match="no links here"), new_directory(tmp_path / "c"):
        pytest.fail("the directory was handed out")
    assert os.listdir(tmp_path) == ["a"]


LEFT = ".m.0123456789abcdef.partial"


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    (tmp_path / LEFT).mkdir()
    (tmp_path / LEFT / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".m.mine.partial").write_text("not a temporary name")
    with new_directory(tmp_path / "m"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"m", ".m.mine.partial"}


def test_what_another_process_is_writing_stays(tmp_path):
    fcntl = pytest.importorskip("fcntl", reason="locks of POSIX")
    (tmp_path / LEFT).touch()
    with (tmp_path / LEFT).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with replacing(tmp_path / "m") as file:
            file.write(b"new")
    assert (tmp_path / "m").read_bytes() == b"new"
    assert (tmp_path / LEFT).exists()


def test_a_link_under_the_temporary_name_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "precious").write_text("1")
    (tmp_path / LEFT).symlink_to("precious")
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: "0123456789abcdef")
    with pytest.raises(FileExistsError), replacing(tmp_path / "m") as file:
        file.write(b"2")
    assert (tmp_path / "precious").read_text() == "1"


def test_a_link_is_replaced_and_a_device_is_not(tmp_path):
    (tmp_path / "precious").write_text("1")
    (tmp_path / "link").symlink_to("precious")
    with replacing(tmp_path / "link") as file:
        file.write(b"2")
    assert (tmp_path / "precious").read_text() == "1"
    (tmp_path / "null").symlink_to(os.devnull)
    with pytest.raises(OSError, match="not a regular file"), replacing(tmp_path / "null"):
        pytest.fail("a file was handed out")
    assert (tmp_path / "null").is_symlink()


def test_a_failed_replacement_leaves_the_old_file(tmp_path):
    (tmp_path / "m").write_text("old")
    with pytest.raises(RuntimeError), replacing(tmp_path / "m") as file:  # noqa: PT012
        file.write(b"new")
        raise RuntimeError
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_gets_a_second_name(tmp_path, monkeypatch, has_links):
    if not has_links:
        monkeypatch.setattr(files.os, "link", refuse)
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    for _ in range(2):  # the second finds its own link
        link_or_copy(tmp_path / "a", tmp_path / "b")
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
            "a": "new",
            "b": "new",
        }


def refuse(*_):
    raise OSError(95, "no links here")

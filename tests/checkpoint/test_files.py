"""Small JSON files that cannot be trusted, and directories that are whole or absent."""

import json

import pytest

from xplm.checkpoint import files
from xplm.checkpoint.files import new_directory, read_json_object, write_json
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


def test_a_giant_file_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 100)
    (tmp_path / "x.json").write_text(json.dumps({"a": "b" * 100}))
    with pytest.raises(CheckpointError, match="at most 100 bytes"):
        read_json_object(tmp_path / "x.json")


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

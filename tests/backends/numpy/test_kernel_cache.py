"""Files of compiled kernels: none of them can end a command."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import xplm_numpy.kernel_cache as kernel_cache
from filelock import FileLock, Timeout
from xplm_numpy.kernel_cache import KernelStore, folder_fault, source_stamp

NAME, KEY, CODE = "module.function-cpython311-0123456789abcdef.nbc", "key", bytes(range(256))


@pytest.fixture
def store(tmp_path):
    """A store with one file."""
    store = KernelStore(tmp_path)
    store.save(NAME, KEY, CODE)
    return store


def put(content):
    def damage(path):
        whole = path.read_bytes()
        path.write_bytes(content(whole))

    return damage


def as_directory(path):
    path.unlink()
    path.mkdir()


def as_pipe(path):
    path.unlink()
    os.mkfifo(path)


def as_endless(path):
    path.unlink()
    path.symlink_to("/dev/zero")


DAMAGE = {
    "empty": put(lambda whole: b""),
    "cut in the head": put(lambda whole: whole[:20]),
    "cut in the code": put(lambda whole: whole[: len(whole) // 2]),
    "noise": put(lambda whole: np.random.default_rng(0).bytes(len(whole))),
    "zeros": put(lambda whole: bytes(len(whole))),
    "one bit of the code": put(lambda whole: whole[:-1] + bytes([whole[-1] ^ 1])),
    "foreign": put(lambda whole: b"\x80\x04}\x94." * 9),
    "directory": as_directory,
    "pipe": as_pipe,
    "endless": as_endless,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_file_of_no_use_is_dropped_with_one_line_and_written_again(store, damage, caplog):
    damage(store.folder / NAME)
    assert store.load(NAME, KEY) is None
    store.drop("another", "it is damaged, too")
    assert [record.levelname for record in caplog.records if record.levelname != "DEBUG"] == [
        "WARNING"
    ]
    assert not (store.folder / NAME).exists()
    store.save(NAME, KEY, CODE)
    assert store.load(NAME, KEY) == CODE


def test_a_file_that_was_compiled_from_something_else_is_replaced_without_a_word(store, caplog):
    assert store.load(NAME, "another key") is None
    store.save(NAME, "another key", b"other code")
    assert store.load(NAME, "another key") == b"other code"
    assert os.listdir(store.folder) == [NAME]
    assert not caplog.messages


def test_a_directory_that_holds_something_stays_and_the_kernel_is_compiled_in_memory(store, caplog):
    as_directory(store.folder / NAME)
    (store.folder / NAME / "something").touch()
    assert store.load(NAME, KEY) is None
    store.save(NAME, KEY, CODE)
    assert not store.is_writable
    assert (store.folder / NAME / "something").exists()
    assert "but cannot be removed" in caplog.messages[0]
    assert "they are compiled at each start" in caplog.messages[-1]


@pytest.mark.parametrize("moment", ["write_bytes", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_cannot_be_written_is_said_once_and_leaves_nothing(
    store, monkeypatch, caplog, moment, number
):
    def fails(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, moment, fails)
    for name in ("a.nbc", "b.nbc"):
        store.save(name, KEY, CODE)
    (line,) = caplog.messages
    assert os.strerror(number) in line
    assert os.listdir(store.folder) == [NAME]
    assert store.load(NAME, KEY) == CODE


def test_a_process_that_is_killed_while_it_writes_leaves_what_was_there(store, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store.save(NAME, KEY, b"new code")
    assert store.load(NAME, KEY) == CODE


def test_nobody_waits_for_a_lock_longer_than_the_limit_and_only_once(store, monkeypatch, caplog):
    monkeypatch.setattr(kernel_cache, "LOCK_SECONDS", 0.1)
    store = KernelStore(store.folder)
    with FileLock(f"{store.folder}/{NAME}.lock"), FileLock(f"{store.folder}/b.nbc.lock"):
        for name in (NAME, "b.nbc"):
            assert store.lock(name)  # and so it is looked for again
            store.unlock()
    (line,) = caplog.messages
    assert "this one compiles on its own" in line
    assert store.lock(NAME)
    store.unlock()


def test_a_kernel_keeps_its_lock_while_a_part_takes_its_own(store):
    assert store.lock(NAME)
    assert store.lock("part.nbc")
    other = FileLock(f"{store.folder}/{NAME}.lock")
    with pytest.raises(Timeout):
        other.acquire(timeout=0)
    store.unlock()
    with other:
        assert other.is_locked


def test_a_lock_that_cannot_be_made_is_done_without(store, caplog):
    (store.folder / f"{NAME}.lock").mkdir()
    assert not store.lock(NAME)
    assert len(caplog.messages) == 1


def test_a_folder_belongs_to_this_user_and_not_to_everybody(tmp_path, monkeypatch):
    own, everybodys = tmp_path / "made" / "own", tmp_path / "everybodys"
    assert folder_fault(own) is None
    assert own.stat().st_mode & 0o777 == 0o700

    everybodys.mkdir()
    everybodys.chmod(0o1777)
    assert folder_fault(everybodys) == "everybody can write to it"

    own.chmod(0o770)
    assert folder_fault(own) is None  # the group is this user's
    with monkeypatch.context() as patch:
        patch.setattr(os, "getegid", lambda: -1)
        assert folder_fault(own) == "another group can write to it"

    monkeypatch.setattr(kernel_cache, "_owners", lambda: {-1})
    assert folder_fault(own) == "it belongs to another user"


def test_a_file_of_another_users_is_not_read(store, monkeypatch, caplog):
    monkeypatch.setattr(kernel_cache, "_owners", lambda: {-1})
    assert store.load(NAME, KEY) is None
    assert "it belongs to another user" in caplog.messages[0]


def test_the_first_folder_without_fault_is_taken_and_without_any_nothing_is_kept(
    tmp_path, monkeypatch, caplog
):
    file, good = tmp_path / "file", tmp_path / "good"
    file.touch()
    assert KernelStore.in_first([file / "within", good]).folder == good
    assert not caplog.messages

    monkeypatch.setattr(os, "access", lambda *_: False)
    store = KernelStore.in_first([file / "within", good])
    store.save(NAME, KEY, CODE)
    assert (store.load(NAME, KEY), store.lock(NAME), os.listdir(good)) == (None, False, [])
    (line,) = caplog.messages
    assert f"{file}/within: Not a directory; {good}: it is read-only" in line


def test_a_named_folder_that_is_not_taken_is_spoken_of(tmp_path, caplog):
    file, good = tmp_path / "file", tmp_path / "good"
    file.touch()
    named = file / "within"
    assert KernelStore.in_first([named, good], named).folder == good
    (line,) = caplog.messages
    assert f"({named}: Not a directory): they are kept in {good}" in line


def test_kernels_are_read_from_a_read_only_folder_where_no_other_can_keep_any(
    store, monkeypatch, caplog
):
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = KernelStore.in_first([store.folder / NAME, store.folder])
    assert (found.folder, found.is_writable) == (store.folder, False)
    assert found.load(NAME, KEY) == CODE
    assert not caplog.messages
    for _ in range(2):
        found.save("another", KEY, CODE)
    (line,) = caplog.messages
    assert line.endswith("is read-only: kernels that it lacks are compiled at each start")
    assert os.listdir(store.folder) == [NAME]


def test_any_file_changes_the_stamp(tmp_path):
    (tmp_path / "inner").mkdir()
    for name, text in (("a.py", "x = 1"), ("inner/b.py", "y = 1")):
        (tmp_path / name).write_text(text)
    first = source_stamp(tmp_path)
    assert source_stamp(tmp_path) == first
    (tmp_path / "inner" / "b.py").write_text("y = 2")
    second = source_stamp(tmp_path)
    (tmp_path / "inner" / "b.py").rename(tmp_path / "inner" / "c.py")
    assert len({first, second, source_stamp(tmp_path)}) == 3


def test_a_function_of_no_file_is_told_by_its_code():
    made = [eval(f"lambda x: x + {n}") for n in (1, 1, 2)]
    one, same, other = (KernelStore(None).stamp(function) for function in made)
    assert one == same != other

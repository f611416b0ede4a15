"""Fetching from the Hugging Face hub, against a hub on loopback."""

import errno
import logging
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from huggingface_hub import errors

from tests.checkpoint.fake_hub import REPO, fake_hub
from tests.checkpoint.tiny import hf_config, random_tensors, write_directory
from xplm.checkpoint.download import download, explained
from xplm.checkpoint.hub import is_hub_id
from xplm.checkpoint.opening import open_checkpoint
from xplm.checkpoint.pull import pull, resolve
from xplm.errors import DownloadError

SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture
def hub(tmp_path):
    tensors = random_tensors(hf_config())
    names = list(tensors)
    shards = [{name: tensors[name] for name in part} for part in (names[:10], names[10:])]
    path = write_directory(tmp_path / "repository", hf_config(), shards)
    (path / "tokenizer.json").write_text("{}")
    (path / "pytorch_model.bin").write_bytes(b"pickle")
    (path / "README.md").write_text("# tiny")
    with fake_hub({file.name: file.read_bytes() for file in sorted(path.iterdir())}) as hub:
        yield hub


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def pull_tiny(hub, cache, progress=None):
    return pull(REPO, progress=progress, hub_cache=cache, hub_endpoint=hub.endpoint)


def test_a_repository_is_fetched_and_opens(hub, cache):
    seen = []
    path = pull_tiny(hub, cache, lambda *report: seen.append(report))

    for name in ("config.json", "tokenizer.json", SHARD):
        assert (path / name).read_bytes() == hub.files[name]
    checkpoint = open_checkpoint(path)
    for name, array in random_tensors(hf_config()).items():
        np.testing.assert_array_equal(checkpoint.read(name, np.dtype(np.float32)), array)
    assert (SHARD, len(hub.files[SHARD]), len(hub.files[SHARD])) in seen


def test_every_chat_template_is_fetched(hub, cache):
    names = ("chat_template.jinja", "additional_chat_templates/tool_use.jinja")
    hub.files |= dict.fromkeys(names, b"T")
    path = pull_tiny(hub, cache)
    assert all((path / name).read_bytes() == b"T" for name in names)


def test_neither_pickle_nor_prose_is_fetched(hub, cache):
    path = pull_tiny(hub, cache)
    assert {name for name, _ in hub.ranges} == set(hub.files) - {"pytorch_model.bin", "README.md"}
    assert not (path / "pytorch_model.bin").exists()


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (
            OSError("Consistency check failed:\nuse `force_download=True`"),
            "not all of its bytes came; pull again",
        ),
        (OSError(errno.ECONNRESET, "Connection reset"), "Connection reset; pull again"),
        (OSError(errno.ENOSPC, "No space left"), "No space left; make room and pull again"),
    ],
)
def test_only_a_full_disk_wants_room(hub, cache, monkeypatch, cause, said):
    def http_get(*_, **__):
        raise cause

    monkeypatch.setattr("huggingface_hub.file_download.http_get", http_get)
    with pytest.raises(DownloadError, match=f"could not be fetched: .*{said}$") as error:
        pull_tiny(hub, cache)
    assert "\n" not in str(error.value)
    assert ("make room" in str(error.value)) == (cause.errno == errno.ENOSPC)


def test_an_incomplete_file_is_said_in_bytes(tmp_path, monkeypatch):
    def http_get(url, out, **__):
        out.write(b"abc")
        raise OSError("Consistency check failed:\nuse `force_download=True`")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", http_get)
    with pytest.raises(DownloadError, match="m could not be fetched: 3 of 7 bytes came; pull"):
        download("http://127.0.0.1:9", tmp_path / "m", 7, "m", lambda *_: None)


def test_a_second_pull_asks_for_nothing(hub, cache):
    first = pull_tiny(hub, cache)
    hub.ranges.clear()
    no_hub = "http://127.0.0.1:9"
    assert pull(REPO, hub_cache=cache, hub_endpoint=no_hub) == first
    assert resolve(REPO, hub_cache=cache) == first
    assert hub.ranges == []


PULL = """
import sys
from pathlib import Path
from huggingface_hub import constants
from xplm.checkpoint.pull import pull

constants.DOWNLOAD_CHUNK_SIZE = 1000
pull("org/tiny", hub_cache=Path(sys.argv[1]), hub_endpoint=sys.argv[2])
"""


def test_a_killed_download_goes_on_where_it_stopped(hub, cache):
    hub.stall_at = 7000
    child = subprocess.Popen([sys.executable, "-c", PULL, str(cache), hub.endpoint])
    deadline = time.monotonic() + 30
    while not (partial := list(cache.glob("*/blobs/*.xplm-partial"))) or (
        partial[0].stat().st_size < 7000
    ):
        assert time.monotonic() < deadline, "the first bytes never arrived"
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    with pytest.raises(DownloadError, match=f"run: xplm pull {REPO}"):
        resolve(REPO, hub_cache=cache)

    hub.stall_at = None
    hub.ranges.clear()
    path = pull_tiny(hub, cache)
    assert (SHARD, 7000) in hub.ranges
    assert (path / SHARD).read_bytes() == hub.files[SHARD]
    assert not list(cache.glob("*/blobs/*.xplm-partial"))


def test_an_interrupt_between_shards_keeps_the_first(hub, cache):
    def interrupt(name, n_bytes, total_bytes):
        if name == "model-00002-of-00002.safetensors":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull_tiny(hub, cache, interrupt)
    hub.ranges.clear()
    pull_tiny(hub, cache)
    assert [name for name, _ in hub.ranges] == ["model-00002-of-00002.safetensors"]


def test_bytes_that_do_not_match_their_checksum_are_removed(hub, cache):
    hub.wrong_bytes = True
    with pytest.raises(DownloadError, match=f"{SHARD} of {REPO} must have SHA-256"):
        pull_tiny(hub, cache)
    assert not list(cache.glob("*/blobs/*.xplm-partial"))

    hub.wrong_bytes = False
    assert (pull_tiny(hub, cache) / SHARD).read_bytes() == hub.files[SHARD]


def test_no_network_is_said(cache):
    with pytest.raises(DownloadError, match=f"{REPO} could not be fetched: there is no network"):
        pull(REPO, hub_cache=cache, hub_endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize("endpoint", ["http://[::1", "http://a:99999999", "http://", "ftp://a"])
def test_a_malformed_address_is_said(cache, endpoint):
    with pytest.raises(DownloadError, match="correct HF_ENDPOINT"):
        pull(REPO, hub_cache=cache, hub_endpoint=endpoint)


def test_a_malformed_setting_of_the_library_is_said(cache, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://[::1")
    monkeypatch.delitem(sys.modules, "huggingface_hub.constants")  # imported again, and fails
    monkeypatch.delattr("huggingface_hub.constants")
    for fetch in (pull, resolve):
        with pytest.raises(DownloadError, match="correct HF_ENDPOINT"):
            fetch(REPO, hub_cache=cache)


def test_the_offline_mode_is_named(cache, monkeypatch):
    def offline(*_, **__):
        raise errors.OfflineModeIsEnabled

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", offline)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set"):
        pull(REPO, hub_cache=cache)


def test_the_librarys_log_is_silent_during_a_fetch_alone():
    log = logging.getLogger("huggingface_hub.file_download")
    before = log.isEnabledFor(logging.WARNING)
    with explained("m", "the hub"):
        assert not log.isEnabledFor(logging.ERROR)
    assert log.isEnabledFor(logging.WARNING) == before


def test_an_unknown_repository_is_said(hub, cache):
    with pytest.raises(DownloadError, match=r"org/other .* no such repository"):
        pull("org/other", hub_cache=cache, hub_endpoint=hub.endpoint)


def test_a_repository_of_pickle_is_refused(hub, cache):
    for name in [name for name in hub.files if "safetensors" in name]:
        del hub.files[name]
    with pytest.raises(DownloadError, match=r"lacks model\.safetensors .*never loaded"):
        pull_tiny(hub, cache)
    assert hub.ranges == []


def test_an_adapters_repository_is_refused_with_what_to_do(hub, cache):
    for name in [name for name in hub.files if "safetensors" in name]:
        del hub.files[name]
    hub.files["adapter_config.json"] = b"{}"
    with pytest.raises(DownloadError, match="is an adapter; download it into a directory"):
        pull_tiny(hub, cache)


def test_a_repository_without_a_tokenizer_is_refused(hub, cache):
    del hub.files["tokenizer.json"]
    with pytest.raises(DownloadError, match=r"lacks tokenizer\.json"):
        pull_tiny(hub, cache)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/name", True),
        ("HuggingFaceTB/SmolLM2-135M", True),
        ("name", False),
        ("./model", False),
        ("/model", False),
        ("a/b/c", False),
        ("~/model", False),
        ("../model", False),
        ("org/", False),
        ("org/na me", False),
        ("org/na--me", False),
        ("org/na..me", False),
        ("org/name.", False),
        ("org/" + "n" * 100, False),
    ],
)
def test_what_reads_as_an_id(name, expected):
    assert is_hub_id(name) == expected

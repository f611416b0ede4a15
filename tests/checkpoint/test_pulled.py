"""The list of models on this machine, and removing one."""

import pytest

from tests.checkpoint.fake_hub import REPO, fake_hub
from tests.checkpoint.tiny import hf_config, random_tensors, write_directory
from xplm.checkpoint.pull import EMBEDDED, pull
from xplm.checkpoint.pulled import HOME, HUB, PACKAGE, list_models, remove_model
from xplm.errors import DownloadError

NAME, ALIAS = "smollm2-135m-instruct:q4_1", "smollm2-135m-instruct"


@pytest.fixture
def places(tmp_path):
    """A home with an interrupted model, and a hub's cache with a whole one."""
    home, cache = tmp_path / "home", tmp_path / "cache"
    path = write_directory(tmp_path / "repository", hf_config(), [random_tensors(hf_config())])
    (path / "tokenizer.json").write_text("{}")
    with fake_hub({file.name: file.read_bytes() for file in path.iterdir()}) as hub:
        pull(REPO, hub_cache=cache, hub_endpoint=hub.endpoint)
    folder = home / "models" / ALIAS
    folder.mkdir(parents=True)
    (folder / "SmolLM2-135M-Instruct.Q4_1.gguf.wheel.partial").write_bytes(bytes(1000))
    return home, cache


def test_models_are_listed_with_source_and_size(places, tmp_path):
    embedded, named, hub = list_models(*places)
    assert (embedded.name, embedded.source) == ("shakespeare", PACKAGE)
    assert embedded.n_bytes > 1e6
    assert named == (NAME, HOME, 1000, places[0] / "models" / ALIAS, False, False, "Q4_1")
    assert (hub.name, hub.source, hub.is_whole) == (REPO, HUB, True)
    files = (tmp_path / "repository").iterdir()
    assert hub.n_bytes == pytest.approx(sum(f.stat().st_size for f in files), abs=100)  # refs

    (places[0] / "models" / ALIAS / "SmolLM2-135M-Instruct.Q4_1.gguf").touch()
    assert list_models(*places)[1].is_whole


def test_a_machine_without_models_has_the_embedded_one(tmp_path):
    assert [m.name for m in list_models(tmp_path / "a", tmp_path / "b")] == list(EMBEDDED)


@pytest.mark.parametrize(("given", "name"), [(NAME, NAME), (ALIAS, NAME), (REPO, REPO)])
def test_a_model_is_removed(places, given, name):
    removed = remove_model(given, *places)
    assert removed.name == name
    assert not removed.path.exists()
    assert name not in [model.name for model in list_models(*places)]


@pytest.mark.parametrize("name", ["shakespeare", "..", "", "org/other"])
def test_only_what_was_pulled_is_removed(places, name):
    with pytest.raises(DownloadError, match=f"pulled: {NAME}, {REPO}; got"):
        remove_model(name, *places)
    assert len(list_models(*places)) == 3


def test_a_hub_cache_that_cannot_be_read_is_said(places):
    (places[0] / "file").touch()
    with pytest.raises(DownloadError, match="the hub's cache must be a readable directory; got"):
        list_models(places[0], places[0] / "file")

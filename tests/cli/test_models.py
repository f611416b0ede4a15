"""models: what is listed, and what removing prints."""

import pytest

NAME, ALIAS = "smollm2-135m-instruct:q4_1", "smollm2-135m-instruct"


@pytest.fixture
def pulled(tmp_path, monkeypatch):
    """The file of a model in the home of the `xplm` fixture, and a hub's cache that is empty."""
    monkeypatch.setattr("xplm.checkpoint.pulled._hub_repositories", lambda cache: [])
    file = tmp_path / "home" / "models" / ALIAS / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(2_000_000))
    return file


def test_models_are_listed(xplm, pulled):
    lines = xplm("models").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["shakespeare", NAME]
    assert f"2.0 MB  xplm's home: {pulled.parent}  holds Q4_1" in lines[1]
    listed = xplm("models", "--json").json
    assert listed["models"][1]["path"] == str(pulled.parent)
    assert listed["n_bytes"] == sum(model["n_bytes"] for model in listed["models"])


def test_a_model_is_removed(xplm, pulled):
    out = xplm("models", "remove", NAME, "--json")
    assert (out.code, out.json["n_bytes"]) == (0, 2_000_000)
    assert not pulled.parent.exists()
    assert "to remove is one that was pulled: none" in xplm("models", "remove", ALIAS).error


def test_of_a_link_only_the_link_is_removed(xplm, pulled, tmp_path):
    pulled.parent.rename(tmp_path / "elsewhere")
    pulled.parent.symlink_to(tmp_path / "elsewhere")
    out = xplm("models", "remove", NAME)
    assert out.stdout == f"removed {NAME}: the link {pulled.parent}; what it led to stays\n"
    assert not pulled.parent.is_symlink()
    assert (tmp_path / "elsewhere" / pulled.name).exists()


def test_flags_before_remove_are_refused(xplm, pulled):
    assert "flags must follow their command" in xplm("models", "--json", "remove", NAME).error
    assert pulled.exists()

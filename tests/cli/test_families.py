"""Every family goes through the commands that a user of it needs, by its file alone."""

import numpy as np
import pytest

import xplm as library
from tests.cli.conftest import write_tiny
from tests.train.runs import tiny_recipe
from xplm.models.families.table import FAMILIES
from xplm.numerics.tiny_models import TINY_MODELS
from xplm.train.recipe import to_toml

KINDS = ("phi", "gemma3_text", "qwen3_moe", "deepseek_v3")
"""The families of the short run: one for each kind of block."""

every_family = pytest.mark.parametrize(
    "model_type",
    [name if name in KINDS else pytest.param(name, marks=pytest.mark.nightly) for name in FAMILIES],
)


@pytest.fixture
def directory(tmp_path, model_type):
    """A tiny model of a family, by the keys with which the gradient check knows it first."""
    tiny = (keys | {"model_type": keys.get("model_type", "llama")} for keys in TINY_MODELS.values())
    return write_tiny(
        tmp_path / "base", **next(keys for keys in tiny if keys["model_type"] == model_type)
    )


@pytest.fixture
def recipe(tmp_path):
    """A recipe file whose data are beside it."""
    path = tmp_path / "tiny.toml"
    settings = {"train__steps": 2, "train__eval_every": 2}
    path.write_text(to_toml(tiny_recipe(tmp_path, **settings)), encoding="utf-8")
    return path


@every_family
def test_a_model_is_tuned_by_adapters_merged_and_read(xplm, directory, recipe, tmp_path):
    flags = ("--init", directory, "--lora", 2, "--out", tmp_path / "adapter")
    tried = xplm("train", recipe, *flags, "--dry-run", "--json")
    assert tried.code == 0, tried.stderr
    assert tried.json["peak_memory_bytes"] > 0
    assert xplm("train", recipe, *flags, "--quiet").code == 0

    merge = ("--merge", tmp_path / "adapter", "--dtype", "fp32")
    assert xplm("convert", directory, tmp_path / "merged", *merge).code == 0
    beside = library.load(directory, adapter=tmp_path / "adapter").logits([5, 6, 7])
    merged = library.load(tmp_path / "merged").logits([5, 6, 7])
    np.testing.assert_array_equal(merged, beside)
    assert np.any(merged != library.load(directory).logits([5, 6, 7]))


@every_family
def test_a_model_is_trained_on_whole(xplm, directory, recipe, tmp_path):
    flags = ("--init", directory, "--out", tmp_path / "run")
    out = xplm("train", recipe, *flags, "--json", "--quiet")
    assert out.code == 0, out.stderr
    assert np.isfinite(out.json["val_loss"])
    assert xplm("generate", "the ", "--model", tmp_path / "run", "--max-new-tokens", 4).code == 0


@pytest.mark.nightly
@every_family
@pytest.mark.parametrize("test", ["numpy:fp32", "numpy:bf16", "strict:fp32"])
def test_parity_finds_no_bug(xplm, directory, test):
    out = xplm("parity", "--model", directory, "--test", test, "--json")
    assert (out.code, out.json["first_fault"]) == (0, None)

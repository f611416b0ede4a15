"""Tiny models of every family and flag, as transformers saves them, against transformers in float32.

They are made by scripts/make_tiny_models.py.
"""

import ast
import json
import runpy
import warnings

import numpy as np
import pytest

import xplm
from tests.paths import ROOT

SCRIPT = ROOT / "scripts" / "make_tiny_models.py"


def recipe_names():
    """The script's models, read without running it, which needs torch."""
    for node in ast.parse(SCRIPT.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "RECIPES":
            return list(ast.literal_eval(ast.List([*node.value.keys], ast.Load())))
    raise AssertionError("the script lists its models in RECIPES")


NAMES = recipe_names()
LENGTHS = (1, 2, 7, 23, 40)  # beyond the windows of 6 and the trained length of 16
BOUND = 1e-4


@pytest.fixture(scope="session")
def script(transformers):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of others' code
        return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("tiny")


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_transformers_without_a_warning(script, directory, load_oracle, name, caplog):
    path = script["make_model"](name, directory)
    recipe = script["RECIPES"][name]
    has_rope_parameters = recipe.model_type != "gpt2" and not recipe.old_spelling
    config = json.loads((path / "config.json").read_text())
    assert ("rope_parameters" in config) is has_rope_parameters
    assert len(list(path.glob("*.safetensors"))) == 1 or "shards" in name

    oracle, lm = load_oracle(path), xplm.load(path)
    assert not [record for record in caplog.records if record.name == "xplm.models.families.keys"]
    for length in LENGTHS:
        ids = np.random.default_rng(length).integers(0, 256, length).tolist()
        expected = oracle.logits(ids)
        logits = lm.logits(ids)
        assert logits.shape == expected.shape
        assert logits.dtype == np.float32
        assert np.abs(logits - expected).max() <= BOUND


@pytest.mark.parametrize(
    "name", ["llama-gqa", "mistral-window", "qwen2-layer-types", "gpt2-scaled-by-layer"]
)
def test_greedy_ids_equal_transformers(script, directory, load_oracle, name):
    path = script["make_model"](name, directory)
    oracle, lm = load_oracle(path), xplm.load(path)
    ids = np.random.default_rng(50).integers(3, 256, 9).tolist()
    result = lm.generate(ids, max_new_tokens=24, temperature=0.0)
    expected = oracle.greedy(ids, 24)
    assert [*result.token_ids] == expected[: len(result.token_ids)]
    assert len(result.token_ids) >= len(expected) - 1  # the end of sequence may be left out

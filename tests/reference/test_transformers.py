"""Tiny models of every family and flag, as transformers saves them, against transformers in float32.

They are made by scripts/make_tiny_models.py.
"""

import json
import runpy
import warnings
from functools import cache
from zlib import crc32

import numpy as np
import pytest
from tiny_recipes import RECIPES

import xplm
from tests.kinds import FIRST
from tests.on_backends import load_or_skip, on
from tests.paths import ROOT
from xplm.checkpoint.convert import convert

OTHERS = ("torch", "jax", "strict")
SCRIPT = ROOT / "scripts" / "make_tiny_models.py"


NAMES = list(RECIPES)
BOUND = 1e-4
ROUTED = ("mixtral", "qwen3_moe", "qwen2_moe", "glm4_moe", "olmoe", "granitemoe", "gpt_oss")


def family(name):
    """The part of a name before its flags."""
    return name.partition("-")[0]


def is_whole(name):
    """Whether a model is proved end to end, and not on logits alone."""
    return (
        family(name) not in ("llama", "mistral", "qwen2", "gpt2", "starcoder2")
        and "far" not in name
    )


def every(names, short=None):
    """Parameters, those that the short run leaves out marked.

    Of families other than FIRST it takes `short`, or else the model without a suffix.
    """
    nightly = [
        family(name) not in FIRST and (name != family(name) if short is None else name not in short)
        for name in names
    ]
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=pytest.mark.nightly) if is_left_out else name
            for name, is_left_out in zip(names, nightly, strict=True)
        ],
    )


WHOLE = [name for name in NAMES if is_whole(name)]
KINDS = (
    *("qwen3", "qwen3-window", "phi", "phi-qk-norm", "gemma3_text", "gpt_neox", "olmo2", "cohere"),
    *("qwen3_moe", "gpt_oss", "deepseek_v3"),
)
"""A model of each kind of block: those whose text, files and dtypes the short run compares too."""


def lengths(name):
    """Of the texts that a recipe's logits are compared on: beyond its window and its trained length."""
    if "far" in name:
        return (1100,)
    return (1, 2, 17, 33, 90) if name in WHOLE else (1, 2, 7, 23, 40)


def draw(name, length):
    """Token ids, none of them special."""
    return np.random.default_rng([crc32(name.encode()), length]).integers(3, 256, length).tolist()


@pytest.fixture(scope="session")
def make(transformers, tmp_path_factory):
    """make(name): the directory of a tiny model, made once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of others' code
        script, directory = runpy.run_path(str(SCRIPT)), tmp_path_factory.mktemp("tiny")
    return cache(lambda name: script["make_model"](name, directory))


@pytest.fixture(scope="session")
def continuation(make):
    """continuation(name, backend): 16 greedy tokens."""

    @cache
    def generate(name, backend):
        lm = xplm.load(make(name), backend=backend)
        return lm.generate(draw(name, 9), max_new_tokens=16, temperature=0.0).token_ids

    return generate


@every(NAMES)
def test_logits_equal_transformers_without_a_warning(make, load_oracle, name, caplog):
    path = make(name)
    recipe = RECIPES[name]
    config = json.loads((path / "config.json").read_text())
    assert len(list(path.glob("*.safetensors"))) == 1 or "shards" in name

    oracle, lm = load_oracle(path), xplm.load(path)
    has_rope = bool(lm.config.ropes)
    assert ("rope_parameters" in config) is (has_rope and not recipe.old_spelling)
    assert not [record for record in caplog.records if record.name == "xplm.models.families.keys"]
    for length in lengths(name):
        ids = np.random.default_rng(length).integers(0, 256, length).tolist()
        expected = oracle.logits(ids)
        logits = lm.logits(ids)
        assert logits.shape == expected.shape
        assert logits.dtype == np.float32
        assert np.abs(logits - expected).max() <= BOUND


@every(["llama-gqa", "mistral-window", "qwen2-layer-types", "gpt2-scaled-by-layer", *WHOLE])
def test_greedy_ids_equal_transformers(make, load_oracle, name):
    path = make(name)
    oracle, lm = load_oracle(path), xplm.load(path)
    ids = np.random.default_rng(50).integers(3, 256, 9).tolist()
    result = lm.generate(ids, max_new_tokens=24, temperature=0.0)
    expected = oracle.greedy(ids, 24)
    assert [*result.token_ids] == expected[: len(result.token_ids)]
    assert len(result.token_ids) >= len(expected) - 1  # the end of sequence may be left out


@every(WHOLE, KINDS)
def test_token_by_token_is_the_whole(make, name):
    lm = xplm.load(make(name))
    prompt = draw(name, 30)  # longer than the window
    result = lm.generate(prompt, max_new_tokens=60, temperature=0.0)
    logits = lm.logits([*prompt, *result.token_ids])[len(prompt) - 1 : -1].astype(np.float64)
    highest = logits.max(-1)
    expected = -np.log(np.exp(logits - highest[:, None]).sum(-1))  # of the most probable id
    assert len(expected) == len(result.token_ids) > 10
    np.testing.assert_array_equal(logits.argmax(-1), result.token_ids)
    np.testing.assert_allclose(result.logprobs, expected, rtol=0, atol=BOUND)


@every(WHOLE, KINDS)
def test_converted_it_gives_transformers_the_same(
    make, load_oracle, transformers, tmp_path, caplog, name
):
    path = make(name)
    convert(path, tmp_path / "back", "fp32")
    transformers.utils.logging.enable_propagation()
    caplog.clear()
    oracle = load_oracle(tmp_path / "back")
    transformers.utils.logging.disable_propagation()
    assert not caplog.records

    ids = draw(name, 90)
    np.testing.assert_array_equal(oracle.logits(ids), load_oracle(path).logits(ids))
    np.testing.assert_array_equal(
        xplm.load(tmp_path / "back").logits(ids), xplm.load(path).logits(ids)
    )


@pytest.mark.parametrize("policy", ["bf16", "fp16"])
@every(WHOLE, KINDS)
def test_narrow_policies_are_near_float32(make, name, policy):
    """Rounded by a share u each: two layers' 12 results and 6 matrices, and the head's. Together 40 u at most.

    Where rounding makes a router choose another expert, that token and those after it are off by more; so are, in these
    models, fewer than half of all tokens.
    """
    path, ids = make(name), draw(name, 40)
    logits, narrow = (xplm.load(path, policy=p).logits(ids) for p in ("fp32", policy))
    u = {"bf16": 2.0**-8, "fp16": 2.0**-11}[policy]
    errors = np.abs(narrow - logits).max(-1)
    error = np.median(errors) if family(name) in ROUTED else np.max(errors)
    assert 0.0 < error <= 40 * u * np.abs(logits).max()


@pytest.mark.nightly_on("jax")  # it compiles each op for each length
@pytest.mark.parametrize("backend", [pytest.param(other, marks=on(other)) for other in OTHERS])
@every(KINDS)
def test_16_greedy_tokens_are_those_of_every_backend(continuation, name, backend):
    load_or_skip(backend)
    assert len(continuation(name, "numpy")) == 16
    assert continuation(name, backend) == continuation(name, "numpy")

"""Real models on every backend, in float32: the same tokens, and logits that differ by rounding alone."""

import functools

import numpy as np
import pytest

import xplm
from tests.on_backends import load_or_skip, on
from tests.paths import STORY, needs_story, smollm2_gguf

OTHERS = ("torch", "jax", "strict")
PROMPT = "Once upon a time"
TEXT = (
    "The lighthouse stood on the last rock before the open sea, and every night its lamp told ships where the coast "
    "began. Nobody had ever asked who lit it."
)
LOGITS_BOUND = (
    2e-3  # logits reach 47, where float32 is spaced at 4e-6; 30 layers of a dozen roundings each
)


@functools.cache
def numpys_story():
    return xplm.load(STORY).generate(PROMPT, max_new_tokens=64, temperature=0.0).token_ids


@functools.cache
def numpys_logits(path):
    return (lm := xplm.load(path)).logits(lm.tokenizer.encode(TEXT))


@pytest.mark.nightly_on("jax")  # it compiles each op for each shape
@needs_story
@pytest.mark.parametrize("name", [pytest.param(name, marks=on(name)) for name in OTHERS])
def test_64_greedy_tokens_of_the_story_model_are_numpys(name):
    """Ids are a backend's own greedy choice if and only if each is the arg-max after the ones before it.

    JAX compiles anew for each length: it reads them at once, and generates the first of them one by one.
    """
    load_or_skip(name)
    lm = xplm.load(STORY, backend=name)
    expected = numpys_story()
    assert len(expected) == 64
    given = lm.tokenizer.encode(PROMPT)
    chosen = lm.logits([*given, *expected]).argmax(-1)[len(given) - 1 : -1]
    assert chosen.tolist() == [*expected]
    n = 8 if name == "jax" else 64
    assert lm.generate(PROMPT, max_new_tokens=n, temperature=0.0).token_ids == expected[:n]


@pytest.mark.nightly_on("jax")
@pytest.mark.parametrize("name", [pytest.param(name, marks=on(name)) for name in ("torch", "jax")])
def test_logits_of_smollm2_are_numpys(name):
    load_or_skip(name)
    path = smollm2_gguf()
    lm = xplm.load(path, backend=name)
    logits = lm.logits(lm.tokenizer.encode(TEXT))
    assert len(logits) >= 30
    np.testing.assert_allclose(logits, numpys_logits(path), rtol=0, atol=LOGITS_BOUND)

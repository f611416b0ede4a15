"""Every planted mistake is caught by the check that is meant to catch it; and without it, the check passes."""

import numpy as np
import pytest

from tests.numerics.mutations import MUTATIONS, PUBLISHED
from tests.numerics.planted import planted
from xplm.backend import load_backend
from xplm.kernels import PORTABLE, linear_cross_entropy_fwd
from xplm.numerics.check_layers import VARIANTS, check_layer
from xplm.numerics.check_model import check_model
from xplm.numerics.check_ops import check_op
from xplm.numerics.gradient_check import MODEL_LIMIT, OP_LIMIT
from xplm.numerics.tiny_models import TINY_MODELS, tiny_config
from xplm.train.clip import clip_by_global_norm, global_norm

ENTRIES = 6
MARGIN = 1e3
"""A mistake is off by this many times the limit at least: it is not a matter of rounding."""


def op_error(name):
    return max(e.error for _, e in check_op(load_backend("numpy"), PORTABLE, name)), OP_LIMIT


def layer_error(name):
    backend = load_backend("numpy")
    errors = [
        error
        for variant in VARIANTS
        for error in check_layer(backend, "portable", name, variant, entries=ENTRIES)
    ]
    return max(e.error for e in errors), OP_LIMIT


def model_error(name):
    config = tiny_config(TINY_MODELS[name])
    errors = check_model(load_backend("numpy"), "portable", config, entries=ENTRIES)
    return max(e.error for e in errors), MODEL_LIMIT


def clip_error(_):
    """Three tensors of norm 0.8, together 1.39, to be clipped to 1."""
    grads = {name: np.full(4, 0.4) for name in "abc"}
    clipped, _ = clip_by_global_norm(grads, 1.0)
    return abs(float(global_norm(clipped)) - 1.0), OP_LIMIT


CHECKS = {"op": op_error, "layer": layer_error, "model": model_error, "clip": clip_error}


def run_check(check):
    kind, _, name = check.partition(" ")
    return CHECKS[kind](name)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """The head's logits in chunks of 3 rows or fewer, so that there is more than one."""
    monkeypatch.setitem(linear_cross_entropy_fwd.__globals__, "LOGITS_PER_CHUNK", 21)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.says)
def test_a_planted_mistake_is_caught(mutation):
    with planted(mutation.path, mutation.old, mutation.new), np.errstate(all="ignore"):
        error, limit = run_check(mutation.check)
    assert not error <= MARGIN * limit


@pytest.mark.parametrize("check", sorted({m.check for m in MUTATIONS}))
def test_the_same_check_passes_without_a_mistake(check):
    error, limit = run_check(check)
    assert error <= limit


def test_there_are_enough_of_them():
    assert len(PUBLISHED) == 4
    assert len({m.says for m in MUTATIONS}) == len(MUTATIONS) >= 24

"""Every planted mistake is caught by the check that is meant to catch it; and without it, the check passes."""

import numpy as np
import pytest

from tests.numerics.activation_mutations import ACTIVATIONS
from tests.numerics.block_mutations import BLOCKS
from tests.numerics.clipped import check_clipped
from tests.numerics.expert_mutations import EXPERTS
from tests.numerics.latent_mutations import LATENT
from tests.numerics.mutations import MUTATIONS, PUBLISHED
from tests.numerics.planted import planted
from xplm.backend import load_backend
from xplm.kernels import PORTABLE, linear_cross_entropy_fwd
from xplm.numerics.check_layers import VARIANTS, check_layer
from xplm.numerics.check_model import check_model
from xplm.numerics.check_ops import run_case
from xplm.numerics.gradient_check import MODEL_LIMIT, OP_LIMIT
from xplm.numerics.op_cases import op_cases
from xplm.numerics.tiny_models import TINY_MODELS, tiny_config
from xplm.params import global_norm
from xplm.train.clip import clip_by_global_norm

EVERY = MUTATIONS + ACTIVATIONS + BLOCKS + EXPERTS + LATENT
ENTRIES = 3
MARGIN = 1e3
"""A mistake is off by this many times the limit at least: it is not a matter of rounding."""


def op_errors(name):
    backend = load_backend("numpy")
    for case in op_cases(name):
        yield from (e.error for e in run_case(backend, PORTABLE, name, case).errors)


def layer_errors(name):
    backend = load_backend("numpy")
    for variant in VARIANTS:
        errors = check_layer(backend, "portable", name, variant, entries=ENTRIES)
        yield from (e.error for e in errors)


def model_errors(name):
    config = tiny_config(TINY_MODELS[name])
    errors = check_model(load_backend("numpy"), "portable", config, entries=ENTRIES)
    yield from (e.error for e in errors)


def clip_errors(_):
    """Three tensors of norm 0.8, together 1.39, to be clipped to 1."""
    grads = {name: np.full(4, 0.4) for name in "abc"}
    clipped, _ = clip_by_global_norm(grads, 1.0)
    yield abs(float(global_norm(clipped)) - 1.0)


def clipped_errors(_):
    """Attention whose q, k and v are clipped."""
    yield from (e.error for e in check_clipped())


CHECKS = {
    "clipped": (clipped_errors, OP_LIMIT),
    "op": (op_errors, OP_LIMIT),
    "layer": (layer_errors, OP_LIMIT),
    "model": (model_errors, MODEL_LIMIT),
    "clip": (clip_errors, OP_LIMIT),
}


def run_check(check):
    """The errors of a check, computed as they are asked for, and their limit."""
    kind, _, name = check.partition(" ")
    errors, limit = CHECKS[kind]
    return errors(name), limit


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """The head's logits in chunks of 3 rows or fewer, so that there is more than one."""
    monkeypatch.setitem(linear_cross_entropy_fwd.__globals__, "LOGITS_PER_CHUNK", 21)


@pytest.mark.parametrize("mutation", EVERY, ids=lambda m: m.says)
def test_a_planted_mistake_is_caught(mutation):
    with planted(mutation.path, mutation.old, mutation.new), np.errstate(all="ignore"):
        errors, limit = run_check(mutation.check)
        assert any(not error <= MARGIN * limit for error in errors)


CONTROLS = sorted({m.check for m in EVERY if not m.check.startswith("op ")})
"""Ops without a mistake are checked on the same cases in tests/numerics/test_gradients.py."""


@pytest.mark.parametrize("check", CONTROLS)
def test_the_same_check_passes_without_a_mistake(check):
    errors, limit = run_check(check)
    assert max(errors) <= limit


def test_there_are_enough_of_them():
    assert len(PUBLISHED) == 4
    assert len({m.says for m in EVERY}) == len(EVERY) >= 24

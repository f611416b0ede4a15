"""Every planted mistake is caught by the check that is meant to catch it; and without it, the check passes."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

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
from xplm.numerics.check_ops import accepted, run_case
from xplm.numerics.gradient_check import MODEL_LIMIT, OP_LIMIT
from xplm.numerics.op_cases import op_cases
from xplm.numerics.tiny_models import TINY_MODELS, tiny_config
from xplm.params import global_norm
from xplm.train.clip import clip_by_global_norm

EVERY = MUTATIONS + ACTIVATIONS + BLOCKS + EXPERTS + LATENT
ENTRIES = 3
MARGIN = 1e3
"""A mistake is off by this many times the limit at least: it is not a matter of rounding."""


class Check(NamedTuple):
    """A check of several subjects, each of them by a name and what `subjects` gives."""

    subjects: Callable[[str], Sequence[Any]]  # by the name of an op, a layer, a model
    shows: Callable[
        [str, Any], bool
    ]  # whether a mistake does in a subject, at a glance: it is checked first
    errors: Callable[[str, Any], Iterable[float]]  # of a subject
    limit: float


def gradients(name, case):
    """What an op's backward kernel returns for a random dy."""
    forward, backward = PORTABLE[f"{name}_fwd"], PORTABLE[f"{name}_bwd"]
    y, saved = forward(*case.args, **case.options, **accepted(forward, case.tuning))
    dy = np.random.default_rng(0).standard_normal(y.shape)
    return backward(dy, saved, **accepted(backward, case.tuning))


@cache
def cases(name):
    """An op's, each with the gradients of right kernels."""
    return [(case, gradients(name, case)) for case in op_cases(name)]


def op_shows(name, subject):
    case, right = subject
    return any(not np.array_equal(a, b) for a, b in zip(gradients(name, case), right, strict=True))


def op_errors(name, subject):
    run = run_case(load_backend("numpy"), PORTABLE, name, subject[0])
    return [e.error for e in run.errors]


def layer_errors(name, variant, entries=ENTRIES):
    errors = check_layer(load_backend("numpy"), "portable", name, variant, entries=entries)
    return [e.error for e in errors]


def layer_shows(name, variant):
    """Along a direction through all numbers of each gradient."""
    return max(layer_errors(name, variant, entries=0)) > OP_LIMIT


def model_errors(name, _):
    config = tiny_config(TINY_MODELS[name])
    errors = check_model(load_backend("numpy"), "portable", config, entries=ENTRIES)
    return [e.error for e in errors]


def clip_errors(*_):
    """Three tensors of norm 0.8, together 1.39, to be clipped to 1."""
    grads = {name: np.full(4, 0.4) for name in "abc"}
    clipped, _ = clip_by_global_norm(grads, 1.0)
    return [abs(float(global_norm(clipped)) - 1.0)]


def clipped_errors(*_):
    """Attention whose q, k and v are clipped."""
    return [e.error for e in check_clipped()]


def alone(errors, limit):
    """A check of one subject."""
    return Check(lambda name: [None], lambda name, subject: True, errors, limit)


CHECKS = {
    "clipped": alone(clipped_errors, OP_LIMIT),
    "op": Check(cases, op_shows, op_errors, OP_LIMIT),
    "layer": Check(lambda name: [*VARIANTS], layer_shows, layer_errors, OP_LIMIT),
    "model": alone(model_errors, MODEL_LIMIT),
    "clip": alone(clip_errors, OP_LIMIT),
}


def parse(check):
    """The check and the name of what it is of."""
    kind, _, name = check.partition(" ")
    return CHECKS[kind], name


def in_order(check, name, subjects):
    """Those in which a mistake shows, then the others."""
    others = []
    for subject in subjects:
        if check.shows(name, subject):
            yield subject
        else:
            others.append(subject)
    yield from others


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """The head's logits in chunks of 3 rows or fewer, so that there is more than one."""
    monkeypatch.setitem(linear_cross_entropy_fwd.__globals__, "LOGITS_PER_CHUNK", 21)


@pytest.mark.parametrize("mutation", EVERY, ids=lambda m: m.says)
def test_a_planted_mistake_is_caught(mutation):
    check, name = parse(mutation.check)
    subjects = check.subjects(name)
    with planted(mutation.path, mutation.old, mutation.new), np.errstate(all="ignore"):
        assert any(
            not error <= MARGIN * check.limit
            for subject in in_order(check, name, subjects)
            for error in check.errors(name, subject)
        )


CONTROLS = sorted({m.check for m in EVERY if not m.check.startswith("op ")})
"""Ops without a mistake are checked on the same cases in tests/numerics/test_gradients.py."""


@pytest.mark.parametrize("check", CONTROLS)
def test_the_same_check_passes_without_a_mistake(check):
    check, name = parse(check)
    for subject in check.subjects(name):
        assert max(check.errors(name, subject)) <= check.limit


def test_there_are_enough_of_them():
    assert len(PUBLISHED) == 4
    assert len({m.says for m in EVERY}) == len(EVERY) >= 24

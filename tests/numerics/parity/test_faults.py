"""Every planted fault is found and located, in three precisions."""

from contextlib import nullcontext

import pytest

from tests.numerics.parity.faults import FAULTS
from tests.numerics.planted import planted
from xplm.backend import load_backend
from xplm.kernels import linear_cross_entropy_fwd
from xplm.numerics.parity import compare
from xplm.numerics.parity.check_layers import check_layer
from xplm.numerics.parity.check_model import PASSES, check_model
from xplm.numerics.parity.report import Setting, op_rows
from xplm.numerics.tiny_models import TINY_MODELS, tiny_config
from xplm.runtime import make_runtime

DRAWS = 4
POLICIES = ("fp32", "fp16", "bf16")


def rotating(subjects):
    """Each subject under one policy, which changes from one to the next; under the others nightly."""
    return [
        pytest.param(
            subject, policy, marks=() if i % len(POLICIES) == turn else pytest.mark.nightly
        )
        for i, subject in enumerate(subjects)
        for turn, policy in enumerate(POLICIES)
    ]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """The head's logits in chunks of 3 rows or fewer, so that there is more than one."""
    monkeypatch.setitem(linear_cross_entropy_fwd.__globals__, "LOGITS_PER_CHUNK", 21)


def runtimes(policy):
    """Portable kernels, for faults are planted in their source."""
    backend = load_backend("numpy")
    return make_runtime(backend, policy, "portable"), make_runtime(backend, "fp64", "portable")


def look(where, policy):
    """The faults that parity finds in an op, a layer, or the first pass of a small model that has any."""
    test, reference = runtimes(policy)
    kind, _, name = where.partition(" ")
    if kind == "op":
        setting = Setting(test, reference, tiny_config({}), None, 0)
        return [fault for row in op_rows(setting, (name,)) for fault in row.faults]
    if kind == "layer":
        return check_layer(test, reference, name, "gpt2", draws=DRAWS).faults(name)
    config, found = tiny_config(TINY_MODELS[where]), []
    for name in PASSES:
        found = found or check_model(test, reference, config, draws=DRAWS, passes=[name]).faults
    return found


@pytest.mark.parametrize(
    ("fault", "policy"), rotating(FAULTS), ids=lambda value: getattr(value, "says", value)
)
def test_a_planted_fault_is_found_where_it_is(fault, policy, monkeypatch):
    mistake = (fault.path, fault.old, fault.new)
    run = compare.run

    def run_with_fault_in_the_test(rt, work, trace=None):
        with nullcontext() if trace is None else planted(*mistake):
            return run(rt, work, trace)

    if not fault.shared:
        monkeypatch.setattr(compare, "run", run_with_fault_in_the_test)
    with planted(*mistake) if fault.shared else nullcontext():
        found = look(fault.run, policy)
    assert found, "not found"
    assert fault.place in found[0].where


@pytest.mark.parametrize(("where", "policy"), rotating(sorted({fault.run for fault in FAULTS})))
def test_nothing_is_found_without_a_fault(where, policy):
    assert look(where, policy) == []


def test_there_are_enough_of_them():
    assert len({fault.says for fault in FAULTS}) == len(FAULTS) >= 70

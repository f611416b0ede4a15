"""Every injected fault is found, what xplm does about it holds, and would not hold without its point."""

from dataclasses import replace

import pytest

from tests.generate.tiny import tiny_model
from tests.numerics.doctor import faults
from tests.numerics.doctor.asking import gaps, rows_of
from tests.numerics.doctor.faults import Clock, inject
from tests.numerics.doctor.table import OPEN, ROUTED, SLOW_LINEAR
from tests.numerics.planted import planted
from xplm.backend import load_backend
from xplm.numerics.doctor import speed
from xplm.numerics.doctor.examine import PROBES
from xplm.numerics.doctor.workarounds import WORKAROUNDS
from xplm.numerics.parity.check_model import check_model
from xplm.numerics.tiny_models import TINY_MODELS, tiny_config
from xplm.runtime import make_runtime

CLEAN = load_backend("numpy")
SLOW = {f"float16 product's speed, {kind}" for kind in ("2-D", "batched")}
N_TOKENS = 8


@pytest.fixture(autouse=True)
def _small_products(monkeypatch):
    """No time is measured here."""
    monkeypatch.setattr(speed, "SIZES", {"cpu": 4, "gpu": 4})


def says(fault):
    return fault.says


def reply(backend, policy):
    lm = tiny_model(2, policy, backend)
    return lm.generate("Once upon", max_new_tokens=N_TOKENS).token_ids


def places(planted_faults):
    """Each fault on NumPy, and on array-api-strict where it can be met in float32."""
    found = []
    for fault in planted_faults:
        own = {label for label in fault.labels if label.startswith("float32 ")}
        for library, labels in (("numpy", set(fault.labels)), ("strict", own)):
            if labels:
                found.append(pytest.param(fault, library, labels, id=f"{library}-{fault.says}"))
    return found


@pytest.mark.parametrize(("fault", "library", "labels"), places(ROUTED + OPEN))
def test_it_is_found_and_nothing_else_is(fault, library, labels):
    clean = load_backend(library)
    assert gaps(inject(clean, fault.faults)) == gaps(clean) | labels


@pytest.mark.parametrize(("fault", "library", "labels"), places(ROUTED))
def test_what_xplm_does_holds(fault, library, labels):
    rows = rows_of(inject(load_backend(library), fault.faults), labels)
    assert {row.probe.label for row in rows if row.workaround} == labels
    assert [(row.failure, row.is_open) for row in rows] == [("", False)] * len(rows)


@pytest.mark.parametrize("fault", ROUTED, ids=says)
def test_without_its_point_it_does_not_hold(fault):
    backend = inject(CLEAN, fault.faults)
    with planted(*fault.naive):
        rows = rows_of(backend, set(fault.labels))
    assert any(row.is_open and row.failure for row in rows)


@pytest.mark.parametrize("fault", ROUTED, ids=says)
def test_a_reply_is_the_same(fault):
    assert reply(inject(CLEAN, fault.faults), fault.policy) == reply(CLEAN, fault.policy)


@pytest.mark.parametrize("fault", OPEN, ids=says)
def test_what_xplm_has_no_way_around_is_open(fault):
    rows = rows_of(inject(CLEAN, fault.faults), set(fault.labels))
    assert len(rows) == len(fault.labels)
    assert all(row.is_open and row.workaround is None for row in rows)


def test_slow_products_are_found_and_not_taken():
    clock = Clock()
    backend = inject(CLEAN, {"matmul": clock.slow_in_float16})
    assert gaps(backend, clock) == gaps(CLEAN) | SLOW
    for row in rows_of(backend, SLOW, clock):
        assert row.answer.values == {
            "seconds": 100.0, "float32_seconds": 1.0, "xplm_seconds": 1.0,
        }  # fmt: skip
        assert not row.is_open
    with planted(*SLOW_LINEAR):
        failures = [row.failure for row in rows_of(backend, SLOW, clock)]
    assert failures == ["linear calls matmul on float16"] * 2

    before = clock.now
    reply(backend, "fp16")
    assert clock.now - before < 100.0 * N_TOKENS  # a hundred products a token, and none is slow


def test_even_products_are_not_slow():
    clock = Clock()
    assert gaps(inject(CLEAN, {"matmul": clock.even}), clock) == gaps(CLEAN)


def without_bfloat16():
    dtypes = {name: dtype for name, dtype in CLEAN.dtypes.items() if name != "bfloat16"}
    return inject(CLEAN, {}, dtypes=dtypes)


def test_a_dtype_that_is_missing_is_emulated():
    labels = {"bfloat16 present"}
    others = {label for label in gaps(CLEAN) if not label.startswith("bfloat16")}
    assert gaps(without_bfloat16()) == others | labels
    (row,) = rows_of(without_bfloat16(), labels)
    assert (row.workaround.name, row.failure) == ("emulation", "")
    assert reply(without_bfloat16(), "bf16") == reply(CLEAN, "bf16")

    unrounded = (
        "xplm/emulation/namespace.py",
        "data = self._round(data, dtype)  #",
        "pass  #",
    )
    with planted(*unrounded):
        (row,) = rows_of(without_bfloat16(), labels)
    assert row.is_open


def test_a_transfer_that_loses_the_dtype_is_open():
    clean = inject(CLEAN, {})
    backend = replace(clean, to_host=faults.as_float32(clean.to_host))
    (row,) = rows_of(backend, {"bfloat16 to the device and back"})
    assert row.is_open
    assert row.answer.found == "comes back as float32"


CUPY = {
    "matmul": faults.batched_bfloat16_raises,
    "max": faults.extreme_without_infinities,
    "min": faults.extreme_without_infinities,
    "argmax": faults.argument_without_infinities,
    "argmin": faults.argument_without_infinities,
    "argsort": faults.unstable_argsort,
    "take": faults.clamped_take,
    "astype": faults.through_float32,
    "where": faults.widened,
    **dict.fromkeys(("add", "sub", "mul", "truediv"), faults.widened),
    "any function": faults.flushed,
}


@pytest.mark.parametrize("policy", ["fp32", "bf16"])
def test_a_model_runs_and_trains_where_all_that_cupy_ever_broke_is_broken(policy):
    backend = inject(CLEAN, CUPY)
    test, reference = make_runtime(backend, policy), make_runtime(CLEAN, "fp64", "portable")
    assert check_model(test, reference, tiny_config(TINY_MODELS["llama"]), draws=4).faults == []
    assert reply(backend, policy) == reply(CLEAN, policy)


def test_every_probe_and_every_way_around_has_its_fault():
    tested = {label for fault in ROUTED + OPEN for label in fault.labels}
    tested |= SLOW | {"bfloat16 present", "bfloat16 to the device and back"}
    assert {probe.name for probe in PROBES} == {label.partition(" ")[2] for label in tested}
    used = {probe.workaround for probe in PROBES if probe.label in tested}
    assert used - {None} == set(WORKAROUNDS)

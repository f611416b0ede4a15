"""scripts/compare_bits.py finds a difference of one bit, and none where there is none."""

import re
from dataclasses import replace
from functools import wraps

import numpy as np
import pytest
from bits.arrays import Recorder, load
from bits.compare import compare
from bits.models import CONFIGS, write_model
from bits.ops import accepted, record_ops
from compare_bits import check_out

import xplm
from xplm.backend import load_backend
from xplm.errors import RequestError
from xplm.kernels import PORTABLE
from xplm.runtime import make_runtime


@pytest.fixture
def recorded(tmp_path):
    """What a runtime's ops give, written to a folder and read again."""

    def run(name, rt):
        recorder = Recorder()
        record_ops(recorder, "ops/here", rt)
        recorder.save(tmp_path / name)
        return load(tmp_path / name)

    return run


@pytest.fixture(scope="module")
def rt():
    return make_runtime(load_backend("numpy"), "fp32", "portable")


@wraps(PORTABLE["rms_norm_fwd"])
def off_by_a_bit(x, weight, **options):
    y, saved = PORTABLE["rms_norm_fwd"](x, weight, **options)
    y = y.copy()
    y.flat[-1] = np.nextafter(y.flat[-1], np.float32(np.inf))
    return y, saved


def test_one_bit_is_found_and_nothing_else(recorded, rt):
    before = recorded("before", rt)
    (equal,) = compare(before, recorded("again", rt))
    assert equal.differences == []
    assert equal.n_arrays == len(before.digests)
    assert {name.split("/")[2] + "_fwd" for name in before.digests} == {
        name for name in PORTABLE if name.endswith("_fwd")
    }

    changed = replace(rt, kernels={**rt.kernels, "rms_norm_fwd": off_by_a_bit})
    after = recorded("after", changed)
    (found,) = compare(before, after)
    names = [line.split(":")[0] for line in found.differences]
    assert names == [f"ops/here/rms_norm/{rows}/y" for rows in ((2, 70), (1, 1))]
    assert all("1 of" in line and "e-0" in line for line in found.differences)
    (allowed,) = compare(before, after, ["ops/*/rms_norm/*"])
    assert (allowed.differences, allowed.n_excepted) == ([], 2)


def records(tmp_path, **arrays):
    recorder = Recorder()
    for name, array in arrays.items():
        recorder.add(name.replace("__", "/"), array)
    recorder.save(tmp_path)
    return load(tmp_path)


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        (np.float32([1, 2]), np.float64([1, 2]), "equal numbers; another dtype"),
        (np.float32([0.0]), np.float32([-0.0]), "equal numbers; .* signs of zeros"),
        (np.float32([1, 2]), np.float32([[1, 2]]), r"shape \(2,\) became \(1, 2\)"),
        (np.float32([1, np.nan]), np.float32([3, np.nan]), "1 of 2 numbers, by 2 at most"),
        (np.float32([1]), np.float32([np.nan]), "1 of 1 numbers, by nan at most"),
    ],
)
def test_a_difference_is_said(tmp_path, before, after, line):
    sides = (records(tmp_path / side, a__b=x) for side, x in (("0", before), ("1", after)))
    (group,) = compare(*sides)
    assert group.name == "a b"
    (found,) = group.differences
    assert re.search(line, found)


def test_a_name_on_one_side_is_a_difference_unless_it_is_excepted(tmp_path):
    before = records(tmp_path / "0", a__b__old=[1.0], a__b__both=[2.0])
    after = records(tmp_path / "1", a__b__both=[2.0], a__b__new=[1.0])
    (group,) = compare(before, after)
    assert group.differences == ["a/b/old: before only", "a/b/new: after only"]
    (group,) = compare(before, after, ["a/b/old"])
    assert group.differences == ["a/b/new: after only"]


def test_an_option_goes_by_the_name_that_a_kernel_has():
    options = {"wide": "float32", "start": 0}
    assert accepted(lambda x, *, wide, start: x, options) == options
    assert accepted(lambda x, *, island: x, options) == {"island": "float32"}
    assert accepted(lambda x, *, island: x, options | {"start": 3}) is None


@pytest.mark.parametrize("name", CONFIGS)
def test_models_are_whole(tmp_path, name):
    lm = xplm.load(write_model(name, tmp_path / name), kernels="portable")
    assert np.isfinite(lm.logits([1, 2, 3])).all()
    assert lm.engine.context == 1024


def test_an_unknown_revision_is_refused(tmp_path):
    with pytest.raises(RequestError, match='a revision that git knows; got "nonesuch": fatal'):
        check_out("nonesuch", tmp_path)

"""The choice of a library: by what was measured, made once and kept."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numba
import numpy as np
import pytest
from xplm_numpy import choice
from xplm_numpy.compiler import COMPILER
from xplm_numpy.kernel_cache import KernelStore
from xplm_numpy.libraries import BFLOAT16, FLOAT32, find_mkl, find_openblas, mkl_file

FASTER_MKL = {"float32": {"openblas": 1e9, "mkl": 2e9}, "bfloat16": {"widened": 1e9, "mkl": 9e9}}


@pytest.fixture
def store(monkeypatch, tmp_path):
    """A folder of kernels without any, and nothing known yet."""
    monkeypatch.setattr(COMPILER, "store", KernelStore(tmp_path))
    monkeypatch.setattr(choice, "_process", choice._Process())
    monkeypatch.setattr(choice, "mkl_file", lambda: mkl_file() or tmp_path)
    choice._fastest_library.cache_clear()
    yield COMPILER.store
    choice._fastest_library.cache_clear()


@pytest.fixture
def measured(monkeypatch):
    """What each measurement gives, in turn; those left over were not made."""
    results = []
    monkeypatch.setattr(choice, "measure", lambda here: results.pop(0))
    return results


def forget():
    choice._process.measured = None
    choice._fastest_library.cache_clear()


def test_the_fastest_is_taken_but_noise_does_not_decide():
    assert choice.fastest({"openblas": 100.0, "mkl": 104.0}) == "openblas"
    assert choice.fastest({"openblas": 100.0, "mkl": 106.0}) == "mkl"
    assert choice.fastest({"mkl": 1.0}) == "mkl"


def test_a_choice_is_measured_once_and_kept(store, measured, mkl):
    measured += [FASTER_MKL, {"float32": {"openblas": 3e9, "mkl": 1e9}}]
    assert choice.chosen(FLOAT32).name == choice.chosen(BFLOAT16).name == "mkl"
    forget()
    assert choice.chosen(FLOAT32).name == "mkl"  # as it was kept
    assert len(measured) == 1
    (file,) = store.folder.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    forget()
    assert choice.chosen(FLOAT32).name == "openblas"
    assert choice.chosen(BFLOAT16) is None
    assert measured == []


def test_a_choice_holds_for_one_machine_and_for_all_threads(
    store, measured, monkeypatch, on_threads
):
    measured += [FASTER_MKL] * 2
    assert on_threads(1, choice.measured) == on_threads(2, choice.measured)
    assert len(measured) == 1
    forget()
    monkeypatch.setattr(choice, "features", lambda: frozenset({"another"}))
    choice.measured()
    assert measured == []


def test_of_two_processes_that_measure_at_once_the_first_decides(store, monkeypatch):
    def measure(here):
        store.save(choice._file(), choice._key(), json.dumps([1, FASTER_MKL]).encode())
        return {"float32": {"openblas": 9e9}}

    monkeypatch.setattr(choice, "measure", measure)
    assert choice.measured() == choice.Measured(1, FASTER_MKL)


@pytest.mark.parametrize("is_noticed", ["before", "when it is written"])
def test_where_nothing_can_be_kept_all_processes_take_mkl(
    store, mkl, measured, monkeypatch, is_noticed
):
    measured += [{"float32": {"openblas": 9e9, "mkl": 1e9}}] * 2
    if is_noticed == "before":
        monkeypatch.setattr(COMPILER, "store", KernelStore(None))
    else:
        monkeypatch.setattr(store, "save", lambda *arguments: None)
    narrow = find_mkl() if choice.multiplies(find_mkl(), BFLOAT16) else None
    assert choice.chosen(FLOAT32) is find_mkl()
    assert choice.chosen(BFLOAT16) is narrow
    assert len(measured) == (2 if is_noticed == "before" else 1)


def test_an_mkl_that_breaks_after_it_was_chosen_is_left_out(store, measured, mkl, monkeypatch):
    measured += [FASTER_MKL, {"float32": {"openblas": 1e9}}]
    assert choice.chosen(FLOAT32) is find_mkl()
    forget()
    monkeypatch.setattr(choice, "missing_parts", lambda file: "mkl_core")
    assert choice.chosen(FLOAT32) is find_openblas()


def test_environments_that_share_a_folder_keep_a_choice_each(store, measured, monkeypatch):
    measured += [FASTER_MKL, {"float32": {"openblas": 1e9}}]
    for version in ("1", "2", "1", "2"):
        forget()
        monkeypatch.setattr(np, "__version__", version)
        assert ("mkl" in choice.measured().rates["float32"]) == (version == "1")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # there is another thread
def test_a_child_forked_while_another_thread_measures_does_not_wait_for_it(store, monkeypatch):
    is_measuring, may_end = Event(), Event()

    def measure(here):
        is_measuring.set()
        may_end.wait()
        return FASTER_MKL

    monkeypatch.setattr(choice, "measure", measure)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(choice.measured)
        is_measuring.wait()
        if (child := os.fork()) == 0:
            signal.alarm(20)  # ends a child that waits
            monkeypatch.setattr(choice, "measure", lambda here: FASTER_MKL)
            os._exit(choice.measured().rates != FASTER_MKL)
        assert os.waitpid(child, 0)[1] == 0
        may_end.set()
        assert found.result().rates == FASTER_MKL


def test_without_mkl_nothing_is_measured(store, measured, monkeypatch):
    monkeypatch.setattr(choice, "mkl_file", lambda: None)
    assert choice.chosen(FLOAT32) is find_openblas()
    assert choice.chosen(BFLOAT16) is None


def test_what_is_measured_are_rates_of_every_way(narrow_products, monkeypatch):
    monkeypatch.setattr(choice, "SHAPES", ((32, 24, 16), (16, 48, 8)))
    found = choice.measure(choice.libraries())
    assert {dtype: list(ways) for dtype, ways in found.items()} == {
        "float32": ["openblas", "mkl"],
        "bfloat16": ["widened", "mkl"],
        "float16": ["widened", "mkl"],
    }
    assert all(rate > 0.0 for ways in found.values() for rate in ways.values())


def test_features_follow_numba(monkeypatch):
    choice.features.cache_clear()
    monkeypatch.setattr(numba.config, "CPU_FEATURES", "+avx2,-avx512f,+amx-bf16", raising=False)
    assert choice.features() == {"avx2", "amx-bf16"}
    choice.features.cache_clear()
    monkeypatch.setattr(numba.config, "CPU_FEATURES", None)
    monkeypatch.setattr(numba.config, "CPU_NAME", "generic")
    assert choice.features() == frozenset()
    choice.features.cache_clear()

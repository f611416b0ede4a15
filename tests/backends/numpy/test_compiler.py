"""The ways to compile a kernel: when one is left for the next, and what is said."""

import os
import signal
import sys
import threading
import time
from types import SimpleNamespace

import numba
import numpy as np
import pytest
import xplm_numpy
from xplm_numpy import compiler as ways
from xplm_numpy import numba_insides
from xplm_numpy.border import NumbaError, border
from xplm_numpy.compiler import Compiler, make_compiler
from xplm_numpy.kernel_cache import KernelStore

from tests.backends.numpy.private_names import MODULE, SOURCE, TakesAway, private_names
from xplm.errors import KernelError

ONES = np.ones(3, np.float32)


def twice(x):
    return 2 * x[0]


def unknown(x):
    return x


def uncompilable(x):
    return unknown(x)


def add(compiler, function=twice):
    dispatcher = numba.njit(function)
    compiler.add(dispatcher, is_kernel=True)
    return dispatcher


def hits(dispatcher):
    return sum(dispatcher.stats.cache_hits.values())


def fails(*_, **__):
    raise AttributeError("a name is gone")


def test_a_kernel_is_compiled_as_a_whole_and_found_again(tmp_path, caplog):
    kernels = [add(Compiler(numba_insides, KernelStore(tmp_path))) for _ in range(2)]
    assert [kernel(ONES) for kernel in kernels] == [2.0, 2.0]
    assert [hits(kernel) for kernel in kernels] == [0, 1]
    assert not caplog.messages


@pytest.mark.parametrize("kind", [b"", b"noise", None])
def test_a_damaged_kernel_is_compiled_again(tmp_path, caplog, kind):
    add(Compiler(numba_insides, KernelStore(tmp_path)))(ONES)
    (file,) = tmp_path.glob("*.nbc")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if kind is None else kind)
    for expected_hits in (0, 1):
        kernel = add(Compiler(numba_insides, KernelStore(tmp_path)))
        assert kernel(ONES) == 2.0
        assert hits(kernel) == expected_hits
    assert len(caplog.messages) == 1


def test_code_that_numba_cannot_take_back_is_compiled_again(tmp_path, monkeypatch, caplog):
    add(Compiler(numba_insides, KernelStore(tmp_path)))(ONES)
    monkeypatch.setattr(numba_insides, "_REBUILD", fails)
    assert add(Compiler(numba_insides, KernelStore(tmp_path)))(ONES) == 2.0
    (line,) = caplog.messages
    assert "AttributeError: a name is gone" in line


@pytest.mark.parametrize("name", ["JITCodeLibrary", "_insert", "_ensure_finalized"])
def test_without_a_private_name_numba_compiles_plainly(tmp_path, monkeypatch, caplog, name):
    """Of names missed at import, with a function's decoration, and when it is compiled."""
    assert name in private_names(SOURCE.read_text(encoding="utf-8"))
    monkeypatch.setattr(sys, "meta_path", [TakesAway(name), *sys.meta_path])
    monkeypatch.delitem(sys.modules, MODULE)
    monkeypatch.delattr(xplm_numpy, "numba_insides")
    monkeypatch.setattr(ways, "_folders", lambda _: [tmp_path])
    compiler = make_compiler()
    kernels = [add(compiler) for _ in range(2)]
    assert [kernel(ONES) for kernel in kernels] == [2.0, 2.0]
    assert [hits(kernel) for kernel in kernels] == [0, 1]  # of numba's own files
    assert compiler.way == "plain"
    (line,) = caplog.messages
    assert name in line
    assert line.endswith("plain numba.njit compiles the kernels, which takes several times as long")


@pytest.mark.parametrize("name", ["adopt", "compile_or_load"])
def test_where_the_insides_fail_all_functions_are_compiled_plainly(tmp_path, caplog, name):
    insides = SimpleNamespace(**vars(numba_insides) | {name: fails})
    compiler = Compiler(insides, KernelStore(tmp_path))
    kernels = [add(compiler) for _ in range(2)]
    assert [kernel(ONES) for kernel in kernels] == [2.0, 2.0]
    (line,) = caplog.messages
    assert "AttributeError: a name is gone" in line


def test_numbas_own_files_are_dropped_where_they_are_damaged(tmp_path, caplog):
    add(Compiler(None, KernelStore(tmp_path)))(ONES)
    for file in tmp_path.rglob("*.nbc"):
        file.write_bytes(b"noise")
    compiler = Compiler(None, KernelStore(tmp_path))
    assert add(compiler)(ONES) == 2.0
    assert compiler.way == "memory"
    (line,) = caplog.messages
    assert "they are dropped, and compiled in memory" in line
    assert not list(tmp_path.rglob("*.nbc"))


def test_without_a_folder_kernels_are_compiled_in_memory(caplog):
    for insides in (None, numba_insides):
        compiler = Compiler(insides, KernelStore(None))
        assert add(compiler)(ONES) == 2.0
        assert compiler.way == ("memory" if insides is None else "whole")
    assert not caplog.messages  # whoever looked for a folder has said it


def test_what_no_way_compiles_is_refused_and_the_way_stays(tmp_path, caplog):
    compiler = Compiler(numba_insides, KernelStore(tmp_path))
    assert add(compiler)(ONES) == 2.0
    wrong = add(compiler, uncompilable)
    for _ in range(2):
        with pytest.raises(KernelError, match="uncompilable must compile; TypingError"):
            wrong(ONES)
    (line,) = caplog.messages
    assert line.endswith("its portable twin runs, slower")
    assert compiler.way == "whole"
    assert add(compiler)(ONES) == 2.0


def test_where_nothing_has_compiled_nothing_more_is_tried(caplog):
    compiler = Compiler(SimpleNamespace(LOCK=threading.RLock(), adopt=fails), KernelStore(None), "")
    wrong, right = add(compiler, uncompilable), add(compiler)
    for kernel in (wrong, right):
        with pytest.raises(KernelError):
            kernel(ONES)
    (line,) = caplog.messages
    assert line.endswith("the portable kernels run, slower")


def test_numbas_own_files_are_not_read_from_a_folder_that_others_write_to(tmp_path, caplog):
    store = KernelStore(tmp_path)
    folder = Compiler(None, store)._plain_folder()
    folder.mkdir()
    folder.chmod(0o777)
    compiler = Compiler(None, store)
    assert add(compiler)(ONES) == 2.0
    assert compiler.way == "memory"
    (line,) = caplog.messages
    assert "everybody can write to it" in line


def test_numba_compiles_a_faulty_source_no_third_time(tmp_path, monkeypatch):
    compiler = Compiler(numba_insides, KernelStore(tmp_path))
    wrong, ways_tried, compile_so = add(compiler, uncompilable), [], compiler._compile_so

    def note(*arguments):
        ways_tried.append(compiler.way)
        return compile_so(*arguments)

    monkeypatch.setattr(compiler, "_compile_so", note)
    with pytest.raises(KernelError):
        wrong(ONES)
    assert ways_tried == ["whole", "plain"]


@pytest.mark.parametrize("insides", [None, numba_insides], ids=["plain", "whole"])
def test_python_threads_compile_one_at_a_time(tmp_path, monkeypatch, insides):
    compiler = Compiler(insides, KernelStore(tmp_path))
    dispatcher, running, greatest = add(compiler), [], []

    def compile_so(*_):
        running.append(1)
        greatest.append(len(running))
        time.sleep(0.002)
        running.pop()

    monkeypatch.setattr(compiler, "_compile_so", compile_so)
    workers = [threading.Thread(target=dispatcher.compile, args=(n,)) for n in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert greatest == [1] * 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_forked_while_a_python_thread_compiles_can_compile():
    has_lock, done = threading.Event(), []

    def compile_slowly():
        with ways.COMPILER._lock:
            has_lock.set()
            time.sleep(0.2)
            done.append("compiled")

    worker = threading.Thread(target=compile_slowly)
    worker.start()
    has_lock.wait()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)  # ends a child that waits for a thread that it lacks
        with ways.COMPILER._lock:
            os._exit(0 if done == ["compiled"] else 1)
    assert os.waitpid(child, 0)[1] == 0
    worker.join()


def test_a_lack_of_memory_leaves_the_way_and_the_kernel(tmp_path, caplog):
    answers = [MemoryError, numba_insides.compile_or_load]

    def compile_or_load(*arguments):
        if answers[0] is MemoryError:
            raise answers.pop(0)
        return answers[0](*arguments)

    insides = SimpleNamespace(**vars(numba_insides) | {"compile_or_load": compile_or_load})
    compiler = Compiler(insides, KernelStore(tmp_path))
    kernel = add(compiler)
    with pytest.raises(MemoryError):
        kernel(ONES)
    assert (kernel(ONES), compiler.way) == (2.0, "whole")
    assert not caplog.messages


def test_the_border_gives_one_short_line():
    with pytest.raises(NumbaError) as failed, border():
        raise ValueError("a" * 300)
    assert str(failed.value) == f"ValueError: {'a' * 199}…"
    with pytest.raises(NumbaError, match=r"^ValueError: one and two$"), border():
        raise ValueError("one\n  and two\n \nand more")
    with pytest.raises(NumbaError, match=r"KeyError$"), border():
        raise KeyError

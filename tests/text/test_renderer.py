"""The child process that renders templates is there when it is needed, for one process alone, and never left over."""

import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.test_imports import probe
from xplm.errors import TemplateError
from xplm.text import renderer
from xplm.text.chat import ChatTemplate

ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
SECONDS = 20  # more than anything here takes


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    renderer._CHILD.end()
    yield
    renderer._CHILD.end()


def render(source: str = "{{ messages | length }}") -> str:
    return ChatTemplate(source).render([{"role": "user", "content": "hi"}])


def child_pid() -> int:
    assert renderer._CHILD._process is not None
    return renderer._CHILD._process.pid


def is_gone(pid: int) -> bool:
    """Whether a process has ended, though nobody may have waited for it."""
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def in_fork(function: Callable[[], str]) -> tuple[int, str]:
    """The exit code of a forked process, and what the function returned there."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of other tests may be alive
        pid = os.fork()
    if pid == 0:
        signal.alarm(SECONDS)
        try:
            os.write(writer, function().encode() + b"\n")
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.readline().decode()
    return os.waitpid(pid, 0)[1], said


def test_one_child_serves_every_template() -> None:
    renderer.start()
    pid = child_pid()
    assert [render("a"), render("b"), render("a")] == ["a", "b", "a"]
    assert child_pid() == pid


def test_a_child_that_ended_is_replaced() -> None:
    assert render() == "1"
    pid = child_pid()
    os.kill(pid, signal.SIGTERM)
    assert wait_for(lambda: is_gone(pid))
    assert render() == "1"


def test_ctrl_c_is_for_the_parent() -> None:
    assert render() == "1"
    pid = child_pid()
    os.kill(pid, signal.SIGINT)
    assert render() == "1"
    assert child_pid() == pid
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        render(ENDLESS)
    assert render() == "1"  # and not the reply to the endless one
    assert is_gone(pid)


def test_threads_get_their_own_replies() -> None:
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(render, map(str, range(200)))) == [str(n) for n in range(200)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_has_a_child_of_its_own() -> None:
    assert render() == "1"
    pid = child_pid()
    with renderer._CHILD._lock:  # as if another thread were rendering
        code, said = in_fork(lambda: f"{render('forked')} {child_pid()}")
    assert code == 0
    text, its_pid = said.split()
    assert text == "forked"
    assert int(its_pid) != pid
    assert wait_for(lambda: is_gone(int(its_pid)))  # for its parent ended without a word
    assert render() == "1"
    assert child_pid() == pid


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_child_ends_with_its_parent_though_a_process_was_forked() -> None:
    def fork_and_leave() -> str:
        render()
        pid = os.fork()
        if pid == 0:
            time.sleep(SECONDS)
            os._exit(0)
        return f"{child_pid()} {pid}"

    _, said = in_fork(fork_and_leave)
    child, forked = map(int, said.split())
    try:
        assert wait_for(lambda: is_gone(child))
    finally:
        os.kill(forked, signal.SIGKILL)


def test_the_time_limit_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    assert render() == "1"
    monkeypatch.setattr(renderer, "WALL_SECONDS", 0.2)
    with pytest.raises(TemplateError, match=r"failed: .* no reply in 0\.2 s"):
        render(ENDLESS)


def test_a_request_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "MAX_BYTES", 100)
    with pytest.raises(TemplateError, match="must have at most 100 bytes, got 1"):
        render("x" * 100)


@pytest.mark.parametrize(
    ("executable", "program", "said"),
    [
        (None, "", "sys.executable must be Python, got None"),
        ("/nonexistent/python", "", "No such file"),
        (sys.executable, "import nosuch", "exit code 1; run "),
        (sys.executable, "import time; time.sleep(60)", r"no reply in 0\.5 s; run "),
    ],
)
def test_a_child_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch, executable: str | None, program: str, said: str
) -> None:
    monkeypatch.setattr(renderer, "WALL_SECONDS", 0.5)
    monkeypatch.setattr(renderer, "_PROGRAM", program)
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(
        TemplateError, match=f"a process of their own, and it did not start.*{said}"
    ):
        render()


def test_a_child_finds_the_package_where_the_parent_found_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    elsewhere = [entry for entry in sys.path if not (Path(entry) / "xplm").exists()]
    monkeypatch.setattr(sys, "path", ["", *elsewhere])
    monkeypatch.chdir(tmp_path)
    assert render() == "1"


def test_a_child_imports_jinja2_and_little_more() -> None:
    heavy = ("jinja2", "numpy", "tokenizers", "subprocess", "xplm.errors")
    _, held = probe("import xplm.text.render_worker", heavy)
    assert held == "jinja2"

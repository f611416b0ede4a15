"""Rendering chat templates in a child process, which bounds the time and the memory that a template can take.

One child serves all templates of a process. It starts when it is first needed, or earlier by `start`; one that a
template used up is ended, and the next render starts another. It ends when this process does, whatever ends that, for
its stdin ends then. What a template can take is in `xplm.text.render_worker`; besides, a render has WALL_SECONDS.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import datetime
from io import FileIO
from pathlib import Path
from typing import Any, cast

from xplm.errors import TemplateError
from xplm.text.render_protocol import (
    CPU_SECONDS,
    FAILED,
    MAX_BYTES,
    decode,
    encode,
    read_frame,
    write_frame,
)

WALL_SECONDS = 60
"""Time of one render, and of the child's start before the first: enough for CPU_SECONDS on a busy machine."""

# The child finds modules where this process does. Last comes this package's own place, should the first entry be "",
# the working directory, and that have changed.
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from xplm.text.render_worker import run; run()"
)
_PACKAGE_PARENT = str(Path(__file__).parents[2])

_NO_CHILD = "chat templates are rendered in a process of their own, and it did not start"


def start() -> None:
    """Start the child now, while this process does something else.

    Raises:
        TemplateError: no process can be started.
    """
    _CHILD.start()


def check(source: str) -> None:
    """Compile a template.

    Raises:
        TemplateError: it does not compile, or takes too much.
    """
    _CHILD.ask({"source": source})


def render(
    source: str, variables: Mapping[str, Any], now: datetime, *, is_marked: bool = False
) -> str:
    """Render a template.

    Args:
        source: the template.
        variables: names that the template sees, with values of JSON's types.
        now: the time that `strftime_now` formats.
        is_marked: texts with a mark in them are for the template what they are without; see `xplm.text.marked`.

    Raises:
        TemplateError: it fails, tries to leave its sandbox, or takes too much.
    """
    request = {"source": source, "variables": variables, "is_marked": is_marked}
    return _CHILD.ask(request | {"now": now.isoformat()})


class _Child:
    """The child process; threads take turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_up = False

    def start(self) -> None:
        """Start the child, unless it runs."""
        with self._lock:
            self._running()

    def ask(self, request: dict[str, Any]) -> str:
        """The text of the child's reply.

        Raises:
            TemplateError: the child says so, ends, or does not reply in time.
        """
        request = request | {"cpu_seconds": CPU_SECONDS}
        try:
            content = encode(json.dumps(request, ensure_ascii=False))
        except ValueError as error:  # an integer of more digits than Python converts
            raise TemplateError(f"a chat must be writable as JSON: {error}") from None
        if len(content) > MAX_BYTES:
            raise TemplateError(
                f"a chat and its template must have at most {MAX_BYTES} bytes, got {len(content)}"
            )
        with self._lock:
            reply = self._exchange(self._running(), content)
        if reply.startswith(FAILED):
            raise TemplateError(f"the chat template {decode(reply[1:])}")
        return decode(reply[1:])

    def end(self) -> int | None:
        """End the child, and return its exit code; the next request starts another."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        _close_pipes(process)
        return process.wait()

    def abandon(self) -> None:
        """Leave the child to the process that this one was forked from."""
        if self._process is not None:
            _close_pipes(self._process)
            self._process.returncode = 0  # nothing to wait for, and to warn of

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self.end()
        if self._process is None:
            self._is_up = False
            self._process = _popen()
        return self._process

    def _exchange(self, process: subprocess.Popen[bytes], content: bytes) -> bytes:
        requests, replies = cast(FileIO, process.stdin), cast(FileIO, process.stdout)
        is_late = threading.Event()

        def stop() -> None:
            is_late.set()
            process.kill()

        timer = threading.Timer(WALL_SECONDS, stop)
        timer.daemon = True
        timer.start()
        try:
            if not self._is_up:
                read_frame(replies)
                self._is_up = True
            write_frame(requests, content)
            return read_frame(replies)
        except (EOFError, OSError):
            raise TemplateError(self._failure(is_late.is_set())) from None
        except BaseException:  # Ctrl-C: the reply that is under way must not be taken for another's
            self.end()
            raise
        finally:
            timer.cancel()

    def _failure(self, is_late: bool) -> str:
        code = self.end()
        said = f"no reply in {WALL_SECONDS} s" if is_late else f"exit code {code}"
        if not self._is_up:
            return f'{_NO_CHILD}: {said}; run {sys.executable} -c "import jinja2" to see why'
        if code == -getattr(signal, "SIGXCPU", 0):
            return f"the chat template failed: it takes more than {CPU_SECONDS} s of CPU time"
        return f"the chat template failed: the process that renders it ended: {said}"


def _popen() -> subprocess.Popen[bytes]:
    if not sys.executable or getattr(sys, "frozen", False):  # else the program would start itself
        raise TemplateError(f"{_NO_CHILD}: sys.executable must be Python, got {sys.executable!r}")
    path = json.dumps([*sys.path, _PACKAGE_PARENT])
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-c", _PROGRAM, path],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError as error:
        raise TemplateError(f"{_NO_CHILD}: {error}") from None


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()


def _begin_anew() -> None:
    """In a forked process: the child is the parent's, and the lock may be held by a thread that is not here."""
    global _CHILD
    _CHILD.abandon()
    _CHILD = _Child()


_CHILD = _Child()
atexit.register(lambda: _CHILD.end())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)

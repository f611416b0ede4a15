"""The child process that renders chat templates; `xplm.text.renderer` starts it.

It bounds what a template can take. Before each request it moves its own CPU limit, at which the system ends it, to
the seconds that the request may take; its memory limit, at which Python raises MemoryError, holds all the time. Linux
keeps both. Other POSIX systems keep the first only, and Windows neither: there the parent's time limit alone holds.

It imports jinja2 and the standard library, and ends when its stdin does.
"""

import functools
import json
import math
import signal
import sys
import time
from datetime import datetime
from io import FileIO

from xplm.text.marked import mark_all
from xplm.text.render_protocol import (
    DONE,
    FAILED,
    MAX_CHARS,
    MEMORY_BYTES,
    decode,
    encode,
    read_frame,
    write_frame,
)
from xplm.text.sandbox import compile_template, render_template

try:
    import resource
except ImportError:  # not POSIX
    resource = None  # type: ignore[assignment]

MAX_MESSAGE_CHARS = 500

_compile = functools.lru_cache(maxsize=8)(compile_template)


def run() -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    if sys.platform == "linux":  # others count the heap alone, or address space that nothing uses
        _set_limit("RLIMIT_DATA", MEMORY_BYTES)
    _set_limit("RLIMIT_CORE", 0)
    requests, replies = FileIO(0, closefd=False), FileIO(1, "w", closefd=False)
    reply = DONE
    while True:
        try:
            write_frame(replies, reply)
            request = read_frame(requests)
        except (EOFError, BrokenPipeError):
            return
        reply = _answer(request)


def _set_limit(name: str, amount: int) -> None:
    """Set a soft limit, below the hard one, which stays."""
    if resource is not None:
        kind = getattr(resource, name)
        _, most = resource.getrlimit(kind)
        resource.setrlimit(
            kind, (amount if most == resource.RLIM_INFINITY else min(amount, most), most)
        )


def _answer(request: bytes) -> bytes:
    for _ in range(2):
        try:
            return _render(request)
        except MemoryError:
            _compile.cache_clear()  # an earlier template may hold the memory
    return FAILED + encode(f"failed: it takes more than {MEMORY_BYTES // 2**20} MiB of memory")


def _render(request: bytes) -> bytes:
    verb = "failed"
    try:
        wanted = json.loads(decode(request))
        _set_limit("RLIMIT_CPU", math.ceil(time.process_time()) + wanted["cpu_seconds"])
        verb = "does not compile"
        code = _compile(wanted["source"])
        if "variables" not in wanted:
            return DONE
        verb = "failed"
        now = datetime.fromisoformat(wanted["now"])
        is_marked = wanted["is_marked"]
        variables = mark_all(wanted["variables"]) if is_marked else wanted["variables"]
        text = render_template(code, variables, now, is_marked=is_marked)
        if len(text) > MAX_CHARS:
            raise ValueError(f"a chat has at most {MAX_CHARS} characters, and it wrote {len(text)}")
        return DONE + encode(text)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001, a template raises what it likes: this is the border
        message = " ".join(f"{error or type(error).__name__}".split())
        return FAILED + encode(f"{verb}: {message[:MAX_MESSAGE_CHARS]}")

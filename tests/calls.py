"""Calls that cross files of the library, as Python makes them."""

import inspect
import sys
import threading
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from tests.paths import ROOT

SOURCES = (ROOT / "xplm", ROOT / "backends")
OPS = ("kernels/", "backends/")


def crossings(run: Callable[[], object]) -> list[list[str]]:
    """The calls of a run from one file of the library into another, in their order.

    A function is "generate/scheduler.py: generate_steps": its file below xplm/, or from backends/ on, and its name; one
    inside another goes by the outer one's. A call through another library is that of the function which called it.
    Left out are attributes that are computed, and what an op calls.

    Args:
        run: what to follow, on this thread and on those that it starts.

    Returns:
        For each call the functions on its stack that were called from another file, or from outside the library,
        outermost first; the last is the one called.
    """
    found: list[list[str]] = []

    def follow(frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or file_of(frame.f_code) is None:
            return
        stack = library_stack(frame)
        files = [file_of(f.f_code) or "" for f in stack]
        if len(stack) == 1 or files[0] == files[1] or any(f.startswith(OPS) for f in files[1:]):
            return
        if not is_attribute(frame):
            callers = zip(stack, files, [*files[1:], ""], strict=True)
            entered = [name_of(f.f_code) for f, file, caller in callers if file != caller]
            found.append(entered[::-1])

    threading.setprofile(follow)
    sys.setprofile(follow)
    try:
        run()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return found


@cache
def file_of(code: CodeType) -> str | None:
    """Its file, below xplm/ or from backends/ on; None where it is no function of the library."""
    path = Path(code.co_filename)
    if code.co_name == "<module>" or not any(source in path.parents for source in SOURCES):
        return None
    return path.relative_to(ROOT).as_posix().removeprefix("xplm/")


def name_of(code: CodeType) -> str:
    """The file and the function, as on the page."""
    return f"{file_of(code)}: {code.co_qualname.split('.<locals>')[0]}"


def library_stack(frame: FrameType | None) -> list[FrameType]:
    """A frame of the library and those that it was called from, innermost first."""
    frames = []
    while frame is not None:
        if file_of(frame.f_code) is not None:
            frames.append(frame)
        frame = frame.f_back
    return frames


def is_attribute(frame: FrameType) -> bool:
    """True in the function of a property."""
    owner, _, name = frame.f_code.co_qualname.rpartition(".")
    value = frame.f_globals.get(owner)
    if not inspect.isclass(value):
        return False
    return isinstance(inspect.getattr_static(value, name), property | cached_property)

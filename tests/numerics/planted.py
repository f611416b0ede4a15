"""Plant a mistake in the library's own source, for the length of a `with`."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType
from typing import Any

from tests.paths import ROOT


@contextmanager
def planted(path: str, old: str, new: str) -> Iterator[None]:
    """Run with `old`, which occurs once in a file under the repository's root, replaced by `new`.

    The mistaken file is compiled, and the code of its functions is put into the functions that everybody holds already.
    """
    source = (ROOT / path).read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times in {path}"
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    mistaken = dict(vars(module))
    exec(compile(source.replace(old, new), path, "exec"), mistaken)

    before = {}
    for function, other in _functions(vars(module), mistaken, module.__name__):
        before[function] = function.__code__
        function.__code__ = other.__code__
    try:
        yield
    finally:
        for function, code in before.items():
            function.__code__ = code


def _functions(
    own: Mapping[str, Any], mistaken: Mapping[str, Any], module: str
) -> Iterator[tuple[FunctionType, FunctionType]]:
    """Each function that a module defines, those of its classes too, beside its mistaken twin."""
    for name, value in own.items():
        if getattr(value, "__module__", None) != module or name not in mistaken:
            continue
        if isinstance(value, FunctionType) and isinstance(mistaken[name], FunctionType):
            yield value, mistaken[name]
        elif isinstance(value, type):
            yield from _functions(vars(value), vars(mistaken[name]), module)

"""Plant a mistake in the library's own source, for the length of a `with`."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType

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
    for name, function in vars(module).items():
        own = isinstance(function, FunctionType) and function.__module__ == module.__name__
        if own and isinstance(mistaken[name], FunctionType):
            before[function] = function.__code__
            function.__code__ = mistaken[name].__code__
    try:
        yield
    finally:
        for function, code in before.items():
            function.__code__ = code

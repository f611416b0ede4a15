"""Takes a name private to numba away, as a release that renames it would, and generates a few tokens.

python -m tests.backends.numpy.private_names NAME

The name is replaced in the source of `xplm_numpy.numba_insides`, the one file that may use private names, while it is
imported: what numba itself needs stays. Prints the lines of the log, and the tokens on the last line.
"""

import ast
import logging
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path

MODULE = "xplm_numpy.numba_insides"
SOURCE = Path(__file__).parents[3] / "backends" / "xplm_numpy" / "numba_insides.py"
PUBLIC = {"binding", "cgutils", "types", "numba", "llvmlite"}
"""Modules that numba's and llvmlite's manuals describe."""

UNREAD = {
    "add_symbol", "drop", "items", "launch_threads", "loads", "startswith", "user_cache_dir",
}  # fmt: skip
"""Names that a first command in a folder of the test's does not read, a forked child's among them."""


def private_names(source: str) -> list[str]:
    """The names that a file takes from numba: those that it imports, reads, sets by `put`, and replaces."""
    tree = ast.parse(source)
    return sorted(set(_names(tree)) - set(_own(tree)) - UNREAD)


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("numba."):
            yield from {alias.name for alias in node.names} - PUBLIC
        elif _replaces(node):
            yield node.name
        elif isinstance(node, ast.Attribute) and not node.attr.startswith("__"):
            yield node.attr
        elif _puts(node):
            yield node.args[1].value


def _own(tree: ast.AST) -> Iterator[str]:
    """Names that the file itself defines, and those of what it is given."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and not _replaces(node):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            yield from (s.target.id for s in node.body if isinstance(s, ast.AnnAssign))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def _replaces(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and "replaces" in map(_called, node.decorator_list)


def _puts(node: ast.AST) -> bool:
    return _called(node) == "put"


def _called(node: ast.AST) -> str | None:
    """The name of the function that an expression calls."""
    return getattr(getattr(node, "func", None), "id", None)


class _Renamed(ast.NodeTransformer):
    """Gives a name of numba's another spelling, where a file uses it."""

    def __init__(self, name: str) -> None:
        self._old, self._new = name, f"{name}_of_another_release"

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        for alias in node.names:
            if alias.name == self._old:
                alias.name, alias.asname = self._new, self._old
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        node.attr = self._new if node.attr == self._old else node.attr
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.name = self._new if node.name == self._old and _replaces(node) else node.name
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if _puts(node) and node.args[1].value == self._old:
            node.args[1] = ast.Constant(self._new)
        return node


class _Loader(SourceFileLoader):
    def __init__(self, *where: str, taken: str) -> None:
        super().__init__(*where)
        self._taken = taken

    def get_code(self, fullname: str):
        tree = _Renamed(self._taken).visit(ast.parse(Path(self.path).read_text()))
        return compile(ast.fix_missing_locations(tree), self.path, "exec")


class TakesAway:
    """An importer that reads the one file without a name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(self, fullname, path, target=None):
        spec = PathFinder.find_spec(fullname, path, target) if fullname == MODULE else None
        if spec is not None:
            spec.loader = _Loader(fullname, spec.origin, taken=self._name)
        return spec


def generate() -> list[int]:
    """A few tokens of the smallest model, by fused kernels."""
    import xplm
    from xplm.checkpoint.pull import resolve

    lm = xplm.load(resolve("shakespeare"))
    return list(lm.generate("ROMEO:", max_new_tokens=4).token_ids)


if __name__ == "__main__":
    logging.basicConfig(level="WARNING", format="%(message)s", stream=sys.stdout)
    sys.meta_path.insert(0, TakesAway(sys.argv[1]))
    sys.stdout.write(" ".join(map(str, generate())) + "\n")

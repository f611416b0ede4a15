"""Who may import whom, and the other rules of the house that the source itself can show."""

import ast
import re

import pytest

from tests.paths import ROOT

LAYERS = [
    {"typing", "errors", "namespace", "formats", "precision"},
    {"kernels"},
    {
        "params",
        "config",
        "rope_scaling",
        "backend",
        "transfers",
        "memory_plan",
        "emulation",
        "runtime",
        "cache",
    },
    {"layers"},
    {"models"},
    {"checkpoint", "text", "generate", "train", "numerics", "parallel"},
    {"language_model"},
    {"serve"},
    {"cli", "__main__"},
]
HEIGHT = {part: height for height, parts in enumerate(LAYERS) for part in parts}
SEEN_BY_BACKENDS = {"typing", "errors", "namespace", "precision", "kernels", "backend"}
ARRAY_LIBRARIES = {
    "cupy",
    "torch",
    "jax",
    "numba",
    "array_api_strict",
    "transformers",
    "tensorflow",
}
MAX_LINES = 400

XPLM = sorted((ROOT / "xplm").rglob("*.py"))
BACKENDS = sorted((ROOT / "backends").rglob("*.py"))
EVERYTHING = sorted(
    path
    for folder in ("xplm", "backends", "tests", "scripts")
    for path in (ROOT / folder).rglob("*.py")
)


def imports(path):
    """Dotted names that a file imports, wherever in it: ("xplm.errors", ...)."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            names += [f"xplm.{a.name}" for a in node.names] if module == "xplm" else [module]
    return names


def part(dotted):
    """The layer that a module of xplm belongs to: "xplm.kernels.rope" -> "kernels"."""
    return dotted.split(".")[1]


def part_of(path):
    return path.relative_to(ROOT / "xplm").parts[0].removesuffix(".py")


def relative(path):
    return str(path.relative_to(ROOT))


def test_every_file_of_xplm_is_in_a_layer():
    parts = {part_of(path) for path in XPLM} - {"__init__"}
    assert parts <= set(HEIGHT)
    assert len(XPLM) > 30


@pytest.mark.parametrize("path", XPLM[1:], ids=relative)  # the first, __init__, names them all
def test_imports_point_downward_or_sideways(path):
    own = part_of(path)
    for name in imports(path):
        if name.startswith("xplm."):
            other = part(name)
            assert HEIGHT[other] <= HEIGHT[own], f"{own} may not import {other}"


@pytest.mark.parametrize("path", BACKENDS, ids=relative)
def test_backends_see_the_bottom_layers_and_their_own_library(path):
    package = path.relative_to(ROOT / "backends").parts[0]
    others = {p.name for p in (ROOT / "backends").iterdir() if p.is_dir()} - {package}
    for name in imports(path):
        assert name.split(".")[0] not in others
        if name.startswith("xplm."):
            assert part(name) in SEEN_BY_BACKENDS


@pytest.mark.parametrize("path", XPLM, ids=relative)
def test_array_libraries_and_backends_are_never_imported_by_name(path):
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & ARRAY_LIBRARIES
    assert not {root for root in roots if root.startswith("xplm_")}


@pytest.mark.parametrize("path", sorted((ROOT / "xplm" / "kernels").rglob("*.py")), ids=relative)
def test_kernels_never_see_a_backend_or_a_config(path):
    seen = {part(name) for name in imports(path) if name.startswith("xplm.")}
    assert seen <= {"typing", "errors", "namespace", "precision", "kernels"}
    assert not {name for name in imports(path) if name.startswith("array_api_compat.")}


@pytest.mark.parametrize("folder", ["layers", "models"])
def test_layers_reach_kernels_through_the_runtimes_table(folder):
    for path in (ROOT / "xplm" / folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("xplm.kernels"):
                assert not [alias.name for alias in node.names if alias.name.endswith("_fwd")]


@pytest.mark.parametrize("path", [p for p in XPLM + BACKENDS if "cli" not in p.parts], ids=relative)
def test_environment_is_read_in_the_command_line_only(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        read = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb")
        name = isinstance(node, ast.Name) and node.id in ("environ", "getenv")
        assert not read, f"line {node.lineno} reads the environment"
        assert not name, f"line {node.lineno} reads the environment"


@pytest.mark.parametrize("path", EVERYTHING, ids=relative)
def test_no_file_is_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", XPLM + BACKENDS, ids=relative)
def test_every_file_says_what_it_is(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "a module opens with a docstring"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "xplm" / "kernels").glob("[a-z]*.py")), ids=relative
)
def test_an_ops_name_gives_its_files(path):
    functions = [
        node.name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    ]
    assert {f"{path.stem}_fwd", f"{path.stem}_bwd"} <= set(functions)
    assert (ROOT / "tests" / "kernels" / f"test_{path.stem}.py").exists()
    table = (path.parent / "__init__.py").read_text()
    assert re.search(rf"\b{path.stem}_fwd\b", table)
    assert re.search(rf"\b{path.stem}_bwd\b", table)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "xplm" / "kernels" / "fusions").glob("[a-z]*.py")), ids=relative
)
def test_a_fusions_name_gives_its_files(path):
    functions = [
        node.name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    ]
    pair = [f"{path.stem}_fwd", f"{path.stem}_bwd"]
    assert functions in ([path.stem], pair), "one composition, or it and its way back"
    assert (ROOT / "tests" / "kernels" / "fusions" / f"test_{path.stem}.py").exists()
    table = (path.parent / "__init__.py").read_text()
    for function in functions:
        assert re.search(rf"\b{function}\b", table)

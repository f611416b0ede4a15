"""Who may import whom, and the other rules of the house that the source itself can show."""

import ast
import re
import tomllib
from functools import cache

from tests.paths import ROOT

LAYERS = [
    {"typing", "errors", "namespace", "formats", "precision", "progress", "views", "weights"},
    {"kernels"},
    {
        "params",
        "gradients",
        "config",
        "specs",
        "rope_scaling",
        "host_memory",
        "backend",
        "blas",
        "compiler",
        "out_of_memory",
        "threads",
        "transfers",
        "memory_plan",
        "meter",
        "emulation",
        "runtime",
        "cache",
        "pages",
        "page_pool",
        "paged_cache",
    },
    {"layers"},
    {"models"},
    {"checkpoint", "text", "generate"},
    {"language_model"},  # inference ends here: none of it imports what trains or checks
    {"train", "numerics", "evaluate", "parallel"},
    {"serve"},
    {"cli", "__main__"},
]
HEIGHT = {part: height for height, parts in enumerate(LAYERS) for part in parts}
SEEN_BY_BACKENDS = {
    *{"typing", "errors", "namespace", "precision", "progress", "views", "weights"},
    *{"kernels", "backend", "blas", "compiler", "threads"},
}
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
MAX_FUNCTION_LINES = 60
BACKENDS_NAMED = {
    "xplm/checkpoint/safetensors_file.py": {"numpy"},  # the package's word for arrays on the host
    "xplm/cli/terminal.py": {"strict"},  # Python's word for how a decoder treats errors
    "xplm/cli/threads.py": {"numpy"},  # the module: once imported, its BLAS has its threads
    # Addresses of upstream threads, by the library that they are about.
    "xplm/numerics/doctor/references.py": {"cupy", "jax", "numpy", "strict", "torch"},
}
"""Strings in xplm that are a backend's name. None chooses what is computed."""

XPLM = sorted((ROOT / "xplm").rglob("*.py"))
BACKENDS = sorted((ROOT / "backends").rglob("*.py"))
EVERYTHING = sorted(
    path
    for folder in ("xplm", "backends", "tests", "scripts")
    for path in (ROOT / folder).rglob("*.py")
)


@cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path):
    """Dotted names that a file imports, wherever in it: ("xplm.errors", ...)."""
    names = []
    for node in ast.walk(tree_of(path)):
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


def functions_of(path):
    return [node.name for node in tree_of(path).body if isinstance(node, ast.FunctionDef)]


def test_every_file_of_xplm_is_in_a_layer():
    parts = {part_of(path) for path in XPLM} - {"__init__"}
    assert parts <= set(HEIGHT)
    assert len(XPLM) > 30


def test_imports_point_downward_or_sideways():
    upward = [
        f"{relative(path)} imports {name}"
        for path in XPLM[1:]  # the first, __init__, names them all
        for name in imports(path)
        if name.startswith("xplm.") and HEIGHT[part(name)] > HEIGHT[part_of(path)]
    ]
    assert not upward


def test_backends_see_the_bottom_layers_and_their_own_library():
    packages = {p.name for p in (ROOT / "backends").iterdir() if p.is_dir()}
    foreign = []
    for path in BACKENDS:
        others = packages - {path.relative_to(ROOT / "backends").parts[0]}
        for name in imports(path):
            root, *rest = name.split(".")
            is_too_high = root == "xplm" and rest[0] not in SEEN_BY_BACKENDS
            if root in others or is_too_high:
                foreign.append(f"{relative(path)} imports {name}")
    assert not foreign


def test_array_libraries_and_backends_are_never_imported_by_name():
    named = [
        f"{relative(path)} imports {name}"
        for path in XPLM
        for name in imports(path)
        if name.split(".")[0] in ARRAY_LIBRARIES or name.startswith("xplm_")
    ]
    assert not named


def test_a_backend_is_never_named_in_the_library():
    """Neither alone nor with what it is asked for, as in "numpy:fp32" or "torch+fp8"."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names = pyproject["project"]["entry-points"]["xplm.backends"]
    named = {}
    for path in XPLM:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                name = re.split("[:+]", node.value)[0]
                if name in names and not re.search(r"\s", node.value):
                    named.setdefault(relative(path), set()).add(name)
    assert named == BACKENDS_NAMED


def test_kernels_never_see_a_backend_or_a_config():
    allowed = {"typing", "errors", "namespace", "precision", "views", "weights", "kernels"}
    seen = [
        f"{relative(path)} imports {name}"
        for path in sorted((ROOT / "xplm" / "kernels").rglob("*.py"))
        for name in imports(path)
        if name.startswith("array_api_compat.")
        or (name.startswith("xplm.") and part(name) not in allowed)
    ]
    assert not seen


def test_layers_reach_kernels_through_the_runtimes_table():
    direct = [
        f"{relative(path)} imports {alias.name}"
        for folder in ("layers", "models")
        for path in (ROOT / "xplm" / folder).glob("*.py")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("xplm.kernels")
        for alias in node.names
        if alias.name.endswith("_fwd")
    ]
    assert not direct


WEIGHT_READERS = {
    "xplm/layers/linear.py": "linear",
    "xplm/models/decoder.py": "embedding and head",
    "xplm/layers/norm.py": "vectors, which are never packed",
}


def test_weights_are_read_by_linear_embedding_and_head_alone():
    reads = {
        relative(path)
        for path in XPLM
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Subscript)
        and isinstance(node.ctx, ast.Load)
        and ast.unparse(node.value).endswith("params")
        and re.search(r"weight|EMBEDDING|LM_HEAD|head_name", ast.unparse(node.slice))
    }
    assert reads == set(WEIGHT_READERS)


def test_environment_is_read_in_the_command_line_only():
    names = ("environ", "getenv", "environb")
    readers = [
        f"{relative(path)}:{node.lineno}"
        for path in XPLM + BACKENDS
        if "cli" not in path.parts
        for node in ast.walk(tree_of(path))
        if (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.Name) and node.id in names)
    ]
    assert not readers


def test_no_file_is_long():
    lengths = {
        relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in EVERYTHING
    }
    assert not {path: n for path, n in lengths.items() if n > MAX_LINES}


def functions_in(node):
    """The functions in a node that are in no other function of it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield child
        else:
            yield from functions_in(child)


def n_lines(function):
    """From the docstring on, without functions inside, which count for themselves."""
    inside = sum(f.end_lineno - f.lineno + 1 for f in functions_in(function))
    return function.end_lineno - function.body[0].lineno + 1 - inside


def test_no_function_is_long():
    lengths = {
        f"{relative(path)}:{node.lineno} {node.name}": n_lines(node)
        for path in XPLM + BACKENDS
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef)
    }
    assert len(lengths) > 1000
    assert not {name: n for name, n in lengths.items() if n > MAX_FUNCTION_LINES}


def test_every_file_says_what_it_is():
    silent = [relative(path) for path in XPLM + BACKENDS if not ast.get_docstring(tree_of(path))]
    assert not silent, "a module opens with a docstring"


def test_an_ops_name_gives_its_files():
    for path in sorted((ROOT / "xplm" / "kernels").glob("[a-z]*.py")):
        pair = {f"{path.stem}_fwd", f"{path.stem}_bwd"}
        assert pair <= set(functions_of(path)), relative(path)
        assert (ROOT / "tests" / "kernels" / f"test_{path.stem}.py").exists()
        table = (path.parent / "__init__.py").read_text()
        assert all(re.search(rf"\b{function}\b", table) for function in pair), relative(path)


def test_a_fusions_name_gives_its_files():
    for path in sorted((ROOT / "xplm" / "kernels" / "fusions").glob("[a-z]*.py")):
        pair = [f"{path.stem}_fwd", f"{path.stem}_bwd"]
        assert functions_of(path) in ([path.stem], pair), "one composition, or it and its backward"
        assert (ROOT / "tests" / "kernels" / "fusions" / f"test_{path.stem}.py").exists()
        table = (path.parent / "__init__.py").read_text()
        for function in functions_of(path):
            assert re.search(rf"\b{function}\b", table), relative(path)

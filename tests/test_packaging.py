"""pyproject.toml says what the source needs, and the command completes its words."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions

import pytest

import xplm
from tests.paths import ROOT
from xplm.cli.main import main

WHOLE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = WHOLE["project"]
EXTRAS = PROJECT["optional-dependencies"]


def names(requirements):
    """Distributions by their normalised names, those of the extras that are named in turn included."""
    found = set()
    for requirement in requirements:
        name, extras = re.match(r"([\w.-]+)(?:\[([\w,]+)\])?", requirement).groups()
        if name == "xplm":
            found |= names([line for extra in extras.split(",") for line in EXTRAS[extra]])
        else:
            found.add(re.sub(r"[-_.]+", "-", name).lower())
    return found


def imported(*folders):
    """Top-level modules that files import, outside of the standard library and of the project."""
    found = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").split(".")[0])
    own = {"bench", "bits", "judges", "tests", "tiny_recipes", "torch_twin"} | {
        path.stem for path in (ROOT / "scripts").glob("*.py")
    }
    others = found - set(sys.stdlib_module_names) - own
    return {name for name in others if not name.startswith("xplm")}


@cache
def installed():
    return packages_distributions()


def distribution(module):
    """The distribution that a module comes from, as far as this environment knows."""
    known = {"cupy": "cupy-cuda12x", "llama_cpp": "llama-cpp-python"}
    found = known.get(module) or installed().get(module, [module])[0]
    return re.sub(r"[-_.]+", "-", found).lower()


def test_what_is_imported_is_declared_and_nothing_else():
    core = names(PROJECT["dependencies"])
    optional = names(line for lines in EXTRAS.values() for line in lines)
    used = {distribution(module) for module in imported("xplm", "backends")}
    assert used <= core | optional
    assert core <= used
    for backend, extra in (("strict", "strict"), ("torch", "torch"), ("jax", "jax")):
        wanted = {distribution(m) for m in imported(f"backends/xplm_{backend}")} - core
        assert wanted <= names(EXTRAS[extra])


def test_what_scripts_and_tests_import_is_declared():
    declared = names([*PROJECT["dependencies"], *(line for e in EXTRAS.values() for line in e)])
    assert {distribution(module) for module in imported("scripts", "tests")} <= declared


def test_the_wheel_has_every_file_of_its_packages_that_git_has():
    build = WHOLE["tool"]["hatch"]["build"]
    assert build.keys() == {"targets", "dev-mode-dirs"}  # nothing is excluded
    assert build["targets"]["wheel"].keys() == {"packages"}
    data = [path for path in (ROOT / "xplm" / "serve" / "page").iterdir() if path.is_file()]
    assert {path.suffix for path in data} == {".html", ".css", ".js", ".svg"}
    patterns = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    ignored = {path for pattern in patterns for path in ROOT.glob(f"**/{pattern.strip('/')}")}
    assert not ignored & {parent for path in data for parent in (path, *path.parents)}


def test_the_version_is_that_of_the_source():
    assert re.fullmatch(r"\d+\.\d+\.\d+", xplm.__version__)
    assert PROJECT["dynamic"] == ["version"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("xplm prec", ["precision"]),
        ("xplm precision ", ["sweep", "train", "search", "fragility"]),
        ("xplm train --lo", ["--lora"]),
    ],
)
def test_a_shell_completes_commands_and_flags(line, words, monkeypatch, capsys):
    monkeypatch.setenv("_XPLM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().out.split() == words

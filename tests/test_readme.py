"""README says what is there."""

import re
import shlex
import tomllib

import pytest
import typer

from tests.cli.shown import flags_of
from tests.paths import ROOT, smollm2_gguf
from xplm.cli.main import make_app

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))]
OF_SCRIPTS = {"--only"}
COMMANDS = re.findall(r"^\| `(xplm [^`]*)` \|", README, re.MULTILINE)


def block(containing):
    blocks = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (found,) = [text for text in blocks if containing in text]
    return found


def test_it_is_short():
    assert len(README.splitlines()) <= 160


def test_the_kernel_is_the_one_in_the_source():
    assert block("def swiglu_fwd") == (ROOT / "xplm/kernels/swiglu.py").read_text(encoding="utf-8")


def test_every_command_is_in_the_table():
    shown = {command.split()[1] for command in COMMANDS}
    assert shown == set(typer.main.get_command(make_app()).commands)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_line_of_the_table_has_flags_that_are_there(command):
    used = {word for word in shlex.split(command) if word.startswith("--")}
    assert used <= flags_of(command)


def test_the_flags_named_are_those_that_are_there():
    named = set(re.findall(r"`(--[a-z][a-z-]*)", "\n".join(PAGES)))
    there = set().union(*[flags_of(command) for command in COMMANDS])
    assert named - {"--help", "--install-completion", *OF_SCRIPTS} <= there


@pytest.mark.nightly
def test_the_first_example_runs(capsys):
    code = block("xplm.load(")
    path = smollm2_gguf()
    exec(
        compile(code.replace('"smollm2-135m-instruct:q4_1"', repr(str(path))), "README.md", "exec"),
        {},
    )
    assert capsys.readouterr().out.startswith(" Paris.")


def test_scripts_and_tests_named_are_there():
    for path in re.findall(r"(?:bash|python) (scripts/\S+\.(?:sh|py))", "\n".join(PAGES)):
        assert (ROOT / path).is_file()
    markers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert any(marker.startswith("cuda:") for marker in markers["markers"])

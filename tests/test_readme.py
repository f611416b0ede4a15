"""The README says what is there."""

import re
import shlex
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import typer

import xplm
from tests.cli.conftest import write_tiny
from tests.paths import ROOT, smollm2_gguf
from tests.test_layering import HEIGHT
from xplm.cli.chat import HELP
from xplm.cli.main import make_app
from xplm.precision import Policy

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^\| `(xplm [^`]*)` \|", README, re.MULTILINE)
LISTED = ("xplm", "backends")  # directories whose every entry is in the picture


def section(title):
    """The text below a heading."""
    return re.split(r"^## ", README.split(f"## {title}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def block(language, containing):
    (found,) = [text for kind, text in BLOCKS if kind == language and containing in text]
    return found


def drawn_paths():
    """Every path in the picture of the layout."""
    paths, parents = [], []
    for line in block("", "pyproject.toml").splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        parents[depth:] = [name.rstrip("/")]
        assert line.split()[0].endswith("/") == (ROOT / "/".join(parents)).is_dir()
        paths.append(Path(*parents))
    return paths


def flags_of(command):
    """The flags of a command line's command, from the program itself."""
    node = typer.main.get_command(make_app())
    for word in command.split()[1:]:
        if word not in getattr(node, "commands", {}):
            break
        node = node.commands[word]
    is_group = hasattr(node, "commands") and not node.invoke_without_command
    assert not is_group, f"{command} names no command"
    return {name for parameter in node.params for name in parameter.opts if name[:2] == "--"}


def test_the_picture_shows_what_is_there():
    for path in drawn_paths():
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("directory", LISTED)
def test_the_picture_leaves_nothing_out(directory):
    drawn = {path for path in drawn_paths() if path.parent == Path(directory)}
    entries = [path for path in (ROOT / directory).iterdir() if path.name != "__pycache__"]
    there = {path.relative_to(ROOT) for path in entries if path.is_dir() or path.suffix == ".py"}
    assert drawn == there


def test_the_picture_is_in_the_order_of_imports():
    names = [path.stem for path in drawn_paths() if path.parent == Path("xplm")]
    heights = [HEIGHT[name] for name in names if name not in ("__init__", "__main__")]
    assert heights == sorted(heights)


def test_every_command_is_in_the_table():
    shown = {command.split()[1] for command in COMMANDS}
    assert shown == set(typer.main.get_command(make_app()).commands)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_line_of_the_table_has_flags_that_are_there(command):
    used = {word for word in shlex.split(command) if word.startswith("--")}
    assert used <= flags_of(command)


def test_the_flags_named_are_those_that_are_there():
    named = set(re.findall(r"`(--[a-z][a-z-]*)`", section("Commands")))
    there = set().union(*[flags_of(command) for command in COMMANDS])
    assert named - {"--help"} <= there
    assert flags_of("xplm generate") - {"--help", "--prompt", "--system"} <= named


def test_the_chats_commands_are_named():
    named = set(re.findall(r"`(/[a-z]+)`", README))
    assert named == set(re.findall(r"^(/[a-z]+)", HELP, re.MULTILINE))


def test_the_precision_table_is_what_policies_are():
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section("Precision").splitlines()
        if line.startswith("|")
    ]
    header, _, *body = rows
    assert header[1:] == [field.name for field in fields(Policy)]
    assert len(body) >= 4
    for name, *dtypes in body:
        policy = Policy.parse(name.strip("`"))
        assert [getattr(policy, field.name) for field in fields(Policy)] == dtypes


def test_the_first_example_runs(capsys):
    code = block("python", "xplm.load(")
    path = smollm2_gguf()
    exec(compile(code.replace('"smollm2-135m-instruct"', repr(str(path))), "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith(" Paris.")


LISTING = block("python", "def make_backend")


def test_the_listing_is_a_shipped_adapter_in_fifty_lines():
    assert (ROOT / "backends" / "xplm_strict" / "backend.py").read_text() == LISTING
    assert len(LISTING.splitlines()) <= 50


@pytest.fixture
def listed_backend(tmp_path, monkeypatch):
    """The listing, installed as a package of its own would be: a module on the path, and an entry point."""
    (tmp_path / "my_package.py").write_text(LISTING)
    entry_points = tomllib.loads(block("toml", "xplm.backends"))["project"]["entry-points"]
    ((group, entries),) = entry_points.items()
    lines = [f"[{group}]", *[f"{name} = {target}" for name, target in entries.items()]]
    (tmp_path / "my_package-1.0.dist-info").mkdir()
    (tmp_path / "my_package-1.0.dist-info" / "METADATA").write_text("Name: my-package\n")
    (tmp_path / "my_package-1.0.dist-info" / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    yield "mine"
    del sys.modules["my_package"]


@pytest.mark.parametrize(
    ("policy", "tolerance"),
    [
        (
            "fp32",
            1e-4,
        ),  # two float32 libraries' orders of summation; transformers is held to the same
        (
            "bf16",
            0.125,
        ),  # an activation rounded the other way moves a logit near 8 by 2^-8 of it; four of those
    ],
)
def test_the_listed_backend_gives_numpys_logits(listed_backend, tmp_path, policy, tolerance):
    directory = write_tiny(tmp_path / "tiny")
    ids = list(range(2, 80))
    expected = xplm.load(directory, policy=policy).logits(ids)
    lm = xplm.load(directory, policy=policy, backend=listed_backend)
    assert "my_package" in sys.modules
    np.testing.assert_allclose(lm.logits(ids), expected, rtol=0, atol=tolerance)


def test_the_listed_backend_refuses_a_device_that_it_lacks(listed_backend, tmp_path):
    with pytest.raises(xplm.XplmError, match="got --device cuda:2"):
        xplm.load(tmp_path, device="cuda:2", backend=listed_backend)


def test_scripts_and_tests_named_are_there():
    for path in re.findall(r"(?:bash|python) (scripts/\S+\.(?:sh|py))", README):
        assert (ROOT / path).is_file()
    markers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert any(marker.startswith("cuda:") for marker in markers["markers"])

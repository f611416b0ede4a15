"""docs/ says what is there."""

import ast
import re
import sys
import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest

import xplm
from tests.cli.conftest import write_tiny
from tests.cli.shown import flags_of
from tests.generate.thinkers import FORMS, saying, thinking_model
from tests.paths import ROOT
from tests.test_layering import HEIGHT
from xplm import specs
from xplm.backend import Backend
from xplm.cli.conversation import HELP
from xplm.models.families.family import Family
from xplm.models.families.stored import StoredAs
from xplm.models.families.table import FAMILIES
from xplm.numerics.grade import grade
from xplm.precision import Policy

DOCS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
LISTED = ("xplm", "backends")  # directories whose every entry is in the picture
SPECS = (Family, StoredAs, *(spec for spec in vars(specs).values() if is_dataclass(spec)))
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def block(page, language, containing):
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", DOCS[page], re.MULTILINE | re.DOTALL)
    (found,) = [text for text in blocks if containing in text]
    return found


def rows(page, first):
    """The cells of a page's table whose header begins with a word, without the rule below the header."""
    table = re.search(rf"^\| {first} \|.*?(?=^(?!\|)|\Z)", DOCS[page], re.MULTILINE | re.DOTALL)[0]
    header, _, *body = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
    ]
    return header, body


def test_every_page_is_reached_from_readme_and_every_link_leads_somewhere():
    pages = {"README.md": (ROOT / "README.md").read_text(encoding="utf-8")}
    pages |= {f"docs/{name}": text for name, text in DOCS.items()}
    linked = {
        (ROOT / page).parent.joinpath(link).resolve()
        for page, text in pages.items()
        for link in LINK.findall(text)
    }
    assert [path for path in linked if not path.exists()] == []
    assert {ROOT / "docs" / name for name in DOCS} <= linked


def drawn_paths():
    """Every path in the picture of the layout."""
    paths, parents = [], []
    for line in block("layout.md", "", "pyproject.toml").splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        parents[depth:] = [name.rstrip("/")]
        assert line.split()[0].endswith("/") == (ROOT / "/".join(parents)).is_dir()
        paths.append(Path(*parents))
    return paths


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


def test_the_common_flags_and_those_of_sampling_are_named():
    named = set(re.findall(r"`(--[a-z][a-z-]*)`", DOCS["commands.md"]))
    assert flags_of("xplm generate") - {"--help", "--prompt", "--system"} <= named


def test_the_chats_commands_are_named():
    named = set(re.findall(r"`(/[a-z]+)", DOCS["commands.md"]))
    assert named == set(re.findall(r"^(/[a-z]+)", HELP, re.MULTILINE))


def test_the_precision_table_is_what_policies_are():
    header, body = rows("precision.md", "policy")
    assert header[1:] == [field.name for field in fields(Policy)]
    assert len(body) >= 4
    for name, *dtypes in body:
        policy = Policy.parse(name.strip("`"))
        assert [getattr(policy, field.name) for field in fields(Policy)] == dtypes


def test_the_recipes_are_those_that_come_with_xplm():
    named = {
        name for row in rows("training.md", "recipe")[1] for name in re.findall("`(.*?)`", row[0])
    }
    assert named == {path.stem for path in (ROOT / "xplm/train/recipes").glob("*.toml")}


LISTING = block("backends.md", "python", "def make_backend")


def test_the_listing_is_a_shipped_adapter_in_fifty_lines():
    assert (ROOT / "backends" / "xplm_strict" / "backend.py").read_text() == LISTING
    assert len(LISTING.splitlines()) <= 50


FAMILY_FILES = {
    family.model_type: ROOT / "xplm" / "models" / "families" / f"{family.model_type}.py"
    for family in FAMILIES.values()
}


def test_the_family_to_begin_with_is_the_smallest_as_it_stands():
    sizes = {name: len(path.read_text().splitlines()) for name, path in FAMILY_FILES.items()}
    smallest = min(sizes, key=sizes.__getitem__)
    shown = block("add-a-family.md", "python", "Family(")
    assert FAMILY_FILES[smallest].read_text() == shown


@pytest.mark.parametrize(
    ("header", "place"), [("what differs", 1), ("one entry in", 0)], ids=["facts", "proofs"]
)
def test_what_a_family_takes_is_there(header, place):
    known = {spec.__name__: {f.name for f in fields(spec)} for spec in SPECS}
    for row in rows("add-a-family.md", header)[1]:
        for name in re.findall(r"`([^`]+)`", row[place]):
            owner, _, member = name.partition(".")
            if "/" in name:
                assert (ROOT / name).is_file(), name
            else:
                assert owner in known, name
                assert not member or member in known[owner], name


def test_every_field_of_a_backend_is_in_the_listing_or_the_table():
    (call,) = [
        node
        for node in ast.walk(ast.parse(LISTING))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Backend"
    ]
    given = [keyword.arg for keyword in call.keywords]
    optional = [row[0].strip("`") for row in rows("backends.md", "field")[1]]
    asked_for = ["threads"]  # which `load_backend` sets
    assert sorted([*given, *optional, *asked_for]) == sorted(f.name for f in fields(Backend))


@pytest.fixture
def listed_backend(tmp_path, monkeypatch):
    """The listing, installed as a package of its own would be: a module on the path, and an entry point."""
    (tmp_path / "my_package.py").write_text(LISTING)
    entry_points = tomllib.loads(block("backends.md", "toml", "xplm.backends"))["project"][
        "entry-points"
    ]
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


def test_the_file_to_grade_is_right(tmp_path):
    path = tmp_path / "my_softmax.py"
    path.write_text(block("commands.md", "python", "def backward"))
    assert grade(path).passed


def test_the_example_of_thoughts_runs(capsys):
    tokenizer = FORMS["tags, no tokens"]
    with saying(tokenizer, "<think>\nIt is 4.\n</think>\n\nFour."):
        exec(block("chat.md", "python", "parts()"), {"lm": thinking_model(tokenizer)})
    *parts, last = capsys.readouterr().out.splitlines()
    assert [parts[0], parts[-1], last] == ["reasoning 'I'", "content '.'", "It is 4. Four."]


@pytest.mark.parametrize("line", re.findall(r"^xplm .*$", "\n".join(DOCS.values()), re.MULTILINE))
def test_a_command_line_has_flags_that_are_there(line):
    used = {word for word in line.split() if word.startswith("--")}
    assert used <= flags_of(line)

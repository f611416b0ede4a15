"""`xplm parity`: a table, a certificate, a page, and exit code 1 where something is a bug."""

import re
from functools import partial
from xml.etree import ElementTree

import pytest

from tests.numerics.planted import planted
from xplm.cli import parity
from xplm.cli.parity import parse_side
from xplm.numerics.check_layers import LAYERS
from xplm.numerics.op_cases import OPS
from xplm.numerics.parity import report
from xplm.numerics.parity.certificate import gpus
from xplm.train.optimizers.table import OPTIMIZERS

RECIPE = """
[model]
arch = "gpt"
hidden_size = 8
num_hidden_layers = 1
num_attention_heads = 2

[train]
steps = 1
"""


def write_recipe(folder):
    path = folder / "recipe.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def quick(monkeypatch):
    """Of ops attention alone, of layers one configuration."""
    monkeypatch.setattr(parity, "op_rows", partial(report.op_rows, ops=("attention",)))
    monkeypatch.setattr(report, "VARIANTS", ["gpt2"])


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    return tmp_path_factory.mktemp("parity") / "parity.html"


def test_everything(xplm, page_path):
    out = xplm("parity", "--test", "numpy:bf16", "--html", page_path, "--json")
    assert out.code == 0
    assert out.json["is_parity"] is True
    assert out.json["first_fault"] is None
    named = {kind: [] for kind in ("ops", "layers", "model", "optimizers")}
    for row in out.json["rows"]:
        assert row["verdict"] in ("exact", "rounding")
        assert 0.0 <= row["share_of_bound"] <= 1.0
        named[row["kind"]].append(row["name"])
    assert set(named["ops"]) == set(OPS)
    assert named["layers"] == list(LAYERS)
    assert list(dict.fromkeys(named["model"])) == ["rope tables", "logits", "training", "cached"]
    assert named["optimizers"] == list(OPTIMIZERS)


def test_the_certificate_says_what_was_compared_and_where(xplm, quick, tmp_path):
    path = write_recipe(tmp_path)
    out = xplm("parity", "--test", "strict:fp32", "--seed", "3", "--model", path, "--json")
    made = out.json
    assert out.code == 0
    assert made["test"] == {"backend": "strict", "device": "cpu", "policy": "fp32"}
    assert made["reference"]["policy"] == "fp64"
    assert made["seed"] == 3
    assert made["model"] == str(path)
    assert {"python", "xplm", "numpy", "array_api_strict"} <= set(made["versions"])
    assert {"processor", "cores", "device", "gpus"} <= set(made["hardware"])
    assert set(made["growth"]) == {"logits", "training", "cached"}
    for point in made["growth"]["training"]:
        assert point["error"] <= 20 * point["rounding"]
    labels = [point["call"] for point in made["growth"]["training"]]
    assert "layer_norm forward at model.layers.0.input_layernorm" in labels
    assert not [label for label in labels if "layers.1" in label]


def test_gpus_are_those_that_the_driver_tells_of(tmp_path):
    for bus, model in (("0000:02:00.0", "NVIDIA H200"), ("0000:01:00.0", "NVIDIA H100 PCIe")):
        (tmp_path / bus).mkdir()
        text = f"Model: \t\t {model}\nIRQ:   \t\t 42\n"
        (tmp_path / bus / "information").write_text(text, encoding="utf-8")
    assert gpus(tmp_path) == ["NVIDIA H100 PCIe", "NVIDIA H200"]
    assert gpus(tmp_path / "none") == []


def test_the_page_is_one_file_with_a_picture(xplm, page_path):
    if not page_path.exists():
        xplm("parity", "--test", "numpy:bf16", "--html", page_path)
    text = page_path.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=|url\(|@import", text)
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) == 3
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        _, _, width, height = (float(n) for n in root.attrib["viewBox"].split())
        dots = root.findall("circle")
        assert len(dots) > 20
        for dot in dots:
            assert 0.0 <= float(dot.attrib["cx"]) <= width
            assert 0.0 <= float(dot.attrib["cy"]) <= height
            assert dot.find("title").text
        words = [element.text for element in root.findall("text")]
        assert {"layer 0", "layer 1"} <= set(words)
    assert "Every difference is rounding" in text


@pytest.mark.nightly
def test_table_of_a_model_on_disk(xplm, tiny_directory):
    out = xplm("parity", "--test", "numpy:bf16", "--model", tiny_directory)
    assert out.code == 0
    lines = out.stdout.splitlines()
    assert re.search(r"attention +y +(exact|rounding)", out.stdout)
    assert max(len(line) for line in lines) <= 80
    assert lines[-1].startswith("Every difference is rounding: ")


def test_a_bug_is_exit_code_1_and_has_a_place(xplm, quick, tmp_path):
    side = ("parity", "--test", "numpy:bf16", "--model", write_recipe(tmp_path))
    with planted("xplm/kernels/attention.py", "visible = key <= query", "visible = key < query"):
        out = xplm(*side, "--html", tmp_path / "bug.html")
        made = xplm(*side, "--json")
    assert (out.code, made.code) == (1, 1)
    assert "A BUG, first in: attention forward" in out.stdout
    assert "first in: attention forward" in (tmp_path / "bug.html").read_text()
    assert made.json["is_parity"] is False
    assert made.json["first_fault"]["where"] == "attention forward"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("numpy:float64", ("numpy", "fp64")),
        ("torch:bf16,norm=fp32", ("torch", "bf16,norm=fp32")),
        ("jax:bfloat16", ("jax", "bf16")),
    ],
)
def test_a_side_is_a_backend_and_a_policy(text, parts):
    assert parse_side(text) == parts


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--test", "numpy"], "BACKEND:POLICY"),
        (["--test", "nonesuch:fp32"], 'no backend named "nonesuch"'),
        (["--test", "numpy:fp33"], '"fp33"'),
        (["--test", "numpy:fp8"], "parity knows the bounds of"),
        (["--test", "numpy:fp32,matmul=tf32"], "parity knows the bounds of"),
        (["--test", "numpy:fp32", "--reference", "numpy:fp32"], "must compute in float64"),
        (["--test", "numpy:fp32", "--device", "cuda"], "computes on the CPU"),
        (["--test", "numpy:fp32", "--kernels", "magic"], 'got "magic"'),
        (["--test", "numpy:fp32", "--model", "nonesuch.toml"], "nonesuch.toml"),
        ([], "--test"),
    ],
)
def test_bad_usage(xplm, arguments, fragment):
    assert fragment in xplm("parity", *arguments).error


def test_a_page_that_cannot_be_written(xplm, tmp_path):
    out = xplm("parity", "--test", "numpy:fp32", "--html", tmp_path / "absent" / "page.html")
    assert "must be in a directory that exists" in out.error


def test_a_recipe_that_goes_on_from_a_model(xplm, tmp_path):
    path = tmp_path / "tuned.toml"
    path.write_text('[train]\nsteps = 1\ninit = "smollm2-135m-instruct"\n')
    out = xplm("parity", "--test", "numpy:fp32", "--model", path)
    assert "goes on from smollm2-135m-instruct" in out.error

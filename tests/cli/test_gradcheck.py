"""`xplm gradcheck`: a table, a JSON object, and exit code 1 where a gradient is wrong."""

import pytest

from tests.numerics.planted import planted
from xplm.cli import gradcheck
from xplm.numerics.check_layers import LAYERS, VARIANTS
from xplm.numerics.op_cases import OPS
from xplm.numerics.tiny_models import TINY_MODELS

RECIPE = """
[model]
arch = "{arch}"
hidden_size = 8
num_hidden_layers = 2
num_attention_heads = 2

[train]
steps = 1
z_loss = 0.01
"""


@pytest.mark.parametrize(
    ("variants", "models"),
    [
        (["llama, K < H", "gpt2"], ["llama", "gpt2", "deepseek_v3"]),
        pytest.param([*VARIANTS], [*TINY_MODELS], marks=pytest.mark.nightly),
    ],
    ids=["some", "all"],
)
def test_everything(xplm, monkeypatch, variants, models):
    """Of layers and models some; tests/numerics/test_gradients.py checks each."""
    monkeypatch.setattr(gradcheck, "VARIANTS", variants)
    monkeypatch.setattr(gradcheck, "TINY_MODELS", {name: TINY_MODELS[name] for name in models})
    out = xplm("gradcheck", "--entries", 1, "--json")
    assert out.code == 0
    assert [row["name"] for row in out.json["ops"]] == list(OPS)
    assert [row["name"] for row in out.json["layers"]] == list(LAYERS)
    assert [row["name"] for row in out.json["models"]] == models
    assert max(row["max_relative_error"] for row in out.json["ops"]) <= 1e-8
    assert max(row["max_relative_error"] for row in out.json["models"]) <= 1e-6


def test_table_of_one_op(xplm):
    out = xplm("gradcheck", "--op", "linear")
    assert out.code == 0
    lines = out.stdout.splitlines()
    assert [line.split()[1] for line in lines[1:4]] == ["dx", "dweight", "dbias"]
    assert all(line.endswith("right") for line in lines[1:4])
    assert lines[-1] == "All 3 are right, within 1e-08 (models 1e-06)."


def test_on_another_backend(xplm):
    out = xplm("gradcheck", "--op", "rope", "--backend", "strict", "--device", "cuda", "--json")
    assert out.json["ops"][0]["max_relative_error"] <= 1e-8


def test_a_wrong_gradient_is_exit_code_1(xplm):
    with planted("xplm/kernels/linear.py", "xp.sum(dyw, axis=0)", "xp.mean(dyw, axis=0)"):
        out = xplm("gradcheck", "--op", "linear")
        assert out.code == 1
        assert out.stdout.splitlines()[-1] == "1 of 3 are wrong: linear dbias."
        assert xplm("gradcheck", "--op", "linear", "--json").code == 1


@pytest.mark.parametrize("arch", ["llama", "gpt"])
def test_the_model_of_a_recipe(xplm, tmp_path, arch):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(arch=arch))
    out = xplm("gradcheck", "--model", path, "--entries", 2, "--json")
    assert out.code == 0
    names = [row["name"] for row in out.json["ops"]]
    assert "model.layers.1.mlp.up_proj.weight" in names
    assert ("model.embed_positions.weight" in names) is (arch == "gpt")


def test_a_small_model_is_compared_at_every_number(xplm, tmp_path):
    path = tmp_path / "recipe.toml"
    small = {"hidden_size = 8": "hidden_size = 4", "layers = 2": "layers = 1"}
    text = RECIPE.format(arch="llama")
    for size, smaller in small.items():
        text = text.replace(size, smaller)
    path.write_text(text)
    rows = xplm("gradcheck", "--model", path).stdout.splitlines()[1:-2]
    assert all(" of " not in row for row in rows)
    few = xplm("gradcheck", "--model", path, "--entries", 3).stdout.splitlines()
    (q,) = [row for row in few if row.startswith("model.layers.0.self_attn.q_proj.weight")]
    assert q.split()[2:5] == ["3", "of", "16"]


def test_a_large_model_is_compared_at_some_numbers_and_along_all(xplm, tmp_path, monkeypatch):
    monkeypatch.setattr("xplm.cli.gradcheck.SMALL_MODEL", 100)
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(arch="gpt"))
    rows = xplm("gradcheck", "--model", path).stdout.splitlines()[1:-2]
    assert any("6 of 256" in row for row in rows)
    assert all(row.endswith("right") for row in rows)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--op", "nonesuch"], 'got "nonesuch"'),
        (["--op", "rope", "--model", "x.toml"], "give one"),
        (["--model", "nonesuch.toml"], "nonesuch.toml"),
        (["--backend", "nonesuch"], 'no backend named "nonesuch"'),
        (["--kernels", "magic"], 'got "magic"'),
        (["--entries", "0"], 'a number from 1, or "all"; got "0"'),
        (["--entries", "some"], 'got "some"'),
        (["--entries", "3", "--op", "rope"], "give one"),
    ],
)
def test_bad_usage(xplm, arguments, fragment):
    out = xplm("gradcheck", *arguments)
    assert out.code == 2
    assert fragment in out.stderr


def test_a_recipe_that_goes_on_from_a_model(xplm, tmp_path):
    path = tmp_path / "tuned.toml"
    path.write_text('[train]\nsteps = 1\ninit = "smollm2-135m-instruct"\n')
    assert "goes on from smollm2-135m-instruct" in xplm("gradcheck", "--model", path).stderr


def test_the_table_of_an_op_fits_a_terminal(xplm):
    for op in ("linear_cross_entropy", "rms_norm"):
        assert max(len(line) for line in xplm("gradcheck", "--op", op).stdout.splitlines()) <= 80


def test_a_recipe_that_is_not_there_is_one_line(xplm, tmp_path):
    assert "a TOML file that exists" in xplm("gradcheck", "--model", tmp_path / "no.toml").error

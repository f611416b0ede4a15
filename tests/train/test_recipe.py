"""Recipes: what is read, what is refused, and that a recipe written out is read back as itself."""

from math import inf, nan
from pathlib import Path

import pytest

from xplm.errors import RequestError
from xplm.train.optimizers import find_optimizer
from xplm.train.recipe import (
    DataRecipe,
    Recipe,
    TrainRecipe,
    differences,
    load_recipe,
    make_recipe,
    parse_setting,
    to_toml,
)
from xplm.train.recipe_names import RECIPES

LEAST = {"data": {"path": "text.txt"}, "train": {"steps": 5}}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_values_of_a_file_and_defaults_for_the_rest(tmp_path):
    text = '[data]\npath = "/x.txt"\ncontext = 32\n[train]\nepochs = 3\n[optimizer]\nbeta1 = 0.8\n'
    recipe = load_recipe(write(tmp_path / "r.toml", text))
    assert recipe.data.context == 32
    assert recipe.data.batch_size == DataRecipe().batch_size
    assert recipe.train.epochs == 3.0
    assert isinstance(recipe.train.epochs, float)
    assert dict(recipe.optimizer.options) == {"beta1": 0.8}


def test_a_setting_takes_the_place_of_the_files_value(tmp_path):
    path = write(tmp_path / "r.toml", '[data]\npath = "/x.txt"\n[train]\nsteps = 5\n')
    recipe = load_recipe(path, {"train.steps": 9, "model.arch": "gpt", "train.policy": "bf16"})
    assert (recipe.train.steps, recipe.model.arch, recipe.train.policy) == (9, "gpt", "bf16")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train.seed=3", ("train.seed", 3)),
        ("schedule.lr = 1e-4", ("schedule.lr", 1e-4)),
        ("model.arch=gpt", ("model.arch", "gpt")),
        ('model.arch="gpt"', ("model.arch", "gpt")),
        ("data.path=/a/b=c.txt", ("data.path", "/a/b=c.txt")),
        ("model.tie_word_embeddings=false", ("model.tie_word_embeddings", False)),
        ('train.sample_prompts=["a", "b"]', ("train.sample_prompts", ["a", "b"])),
    ],
)
def test_settings_are_toml_or_a_word(text, expected):
    assert parse_setting(text) == expected


@pytest.mark.parametrize("text", ["train.seed", "seed=3", "=3", "a.b.c=1", ".seed=1"])
def test_what_is_no_setting_is_refused(text):
    with pytest.raises(RequestError, match=r"a setting is SECTION\.KEY=VALUE"):
        parse_setting(text)


def test_a_setting_without_its_section_is_told_which():
    with pytest.raises(RequestError, match=r"did you mean model\.hidden_size\?$"):
        parse_setting("hidden_size=64")


def test_paths_of_a_file_are_relative_to_it_and_those_of_settings_to_the_working_directory(
    tmp_path, monkeypatch
):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "runs").mkdir()
    path = write(
        tmp_path / "recipes" / "r.toml",
        '[data]\npath = "facts.txt"\nvocab_from = "chat.json"\n[train]\nsteps = 5\n',
    )
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(path, {"data.vocab_from": "other.json"})
    assert recipe.data.path == str(tmp_path / "recipes" / "facts.txt")
    assert recipe.data.vocab_from == str(tmp_path / "other.json")
    inits = {
        name: load_recipe(path, {"train.init": name}).train.init for name in ("runs", "smollm2")
    }
    assert inits == {"runs": str(tmp_path / "runs"), "smollm2": "smollm2"}  # a name stays a name


def test_a_tokenizer_is_a_kind_a_name_or_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("word", "model"):
        (tmp_path / name).mkdir()
    path = write(tmp_path / "r.toml", '[data]\npath = "word"\n[train]\nsteps = 5\n')
    taken = {name: load_recipe(path, {"data.tokenizer": name}).data for name in ("word", "model")}
    assert taken["word"].tokenizer == "word"  # whatever lies in the folder
    assert taken["model"].tokenizer == str(tmp_path / "model")
    assert taken["word"].path == str(tmp_path / "word")
    assert load_recipe(path, {"data.tokenizer": "shakespeare"}).data.tokenizer == "shakespeare"


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"trian": {}}, r"sections are \[model\], \[data\], \[optimizer\], .*; got trian"),
        ({"seed": 3}, "got seed"),
        ({"train": {"step": 3}}, r"\[train\] has .*; got unknown step"),
        ({"model": {"width": 3}}, "got unknown width"),
        ({"train": {"steps": "9"}}, r"train\.steps must be an integer; got '9'"),
        ({"train": {"steps": 1.5}}, r"train\.steps must be an integer"),
        ({"train": {"steps": True}}, r"train\.steps must be an integer"),
        ({"schedule": {"lr": "high"}}, r"schedule\.lr must be a number"),
        ({"model": {"head_dim": "x"}}, r"model\.head_dim must be an integer"),
        ({"train": {"sample_prompts": "x"}}, "must be a list of texts"),
        ({"train": {"sample_prompts": [1]}}, "must be a text"),
        ({"data": {"path": "x", "context": 0}}, r"data\.context must be at least 1; got 0"),
        ({"data": {"path": "x", "held_out": 1}}, r"data\.held_out must be .* below 1"),
        ({"train": {"seed": -1, "steps": 1}}, r"train\.seed must be at least 0"),
        ({"train": {"dropout": 1.0, "steps": 1}}, r"train\.dropout"),
        ({"train": {"steps": 0}}, r"give train\.steps or train\.epochs"),
        ({"data": {}}, r"give data\.path"),
        ({"train": {"epochs": inf}}, r"train\.epochs must be finite; got inf"),
        ({"train": {"epochs": nan}}, r"train\.epochs must be at least 0; got nan"),
        ({"train": {"steps": 1, "eval_batches": -1}}, r"train\.eval_batches must be at least 0"),
        ({"train": {"steps": 1, "z_loss": -1.0}}, r"train\.z_loss must be at least 0"),
        (
            {"train": {"steps": 1, "sample_tokens": 0}},
            "train.sample_tokens, .* max_new_tokens .* least 1; got 0",
        ),
        (
            {"train": {"steps": 1, "sample_temperature": inf}},
            r"sample_temperature .*: temperature must",
        ),
        ({"optimizer": {"clip": inf}}, r"optimizer\.clip must be finite"),
        ({"schedule": {"warmup_steps": -1}}, r"schedule\.warmup_steps must be at least 0"),
    ],
)
def test_what_is_wrong_is_refused_with_its_name(tables, message):
    with pytest.raises(RequestError, match=message):
        make_recipe(LEAST | tables)


@pytest.mark.parametrize("content", [b"[train", b"\xff\xfe", None])
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content):
    path = tmp_path / "r.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RequestError, match=r"a recipe (must be|is one of)"):
        load_recipe(path)


def test_a_setting_in_what_is_no_section_is_refused(tmp_path):
    path = write(tmp_path / "r.toml", "model = 3\n")
    with pytest.raises(RequestError, match=r"sections are \[model\], .*; got model"):
        load_recipe(path, {"model.arch": "gpt"})


def test_a_recipe_written_out_is_read_back_as_itself(tmp_path):
    recipe = make_recipe(
        {
            "model": {"arch": "gpt", "position": "rope", "head_dim": 12},
            "data": {"path": str(tmp_path / 'a "quoted" \\ name.txt'), "vocab_size": 300},
            "optimizer": {"name": "muon", "nesterov": False, "beta1": 0.85},
            "schedule": {"lr": 1e-5},
            "train": {"epochs": 2, "sample_prompts": ["\n", "你好 🌍\t"]},
        }
    )
    assert load_recipe(write(tmp_path / "r.toml", to_toml(recipe))) == recipe


def test_differences_name_what_changed():
    old = Recipe(data=DataRecipe(path="x"), train=TrainRecipe(steps=5))
    new = Recipe(data=DataRecipe(path="x"), train=TrainRecipe(steps=6, seed=1))
    assert differences(old, old) == []
    assert differences(old, new) == ["train.steps: 5 -> 6", "train.seed: 0 -> 1"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_that_comes_with_xplm_is_read_by_name(name):
    recipe = load_recipe(name, {} if "facts" in name else {"data.path": "text.txt"})
    if "facts" in name:
        assert Path(recipe.data.path).is_file()
    assert recipe.train.steps > 0 or recipe.train.epochs > 0


def test_the_recipes_that_come_with_xplm():
    assert list(RECIPES) == [
        "facts-chat", "facts-pretrain", "finetune", "shakespeare-bpe", "shakespeare-char"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("shakespeare-chr", "did you mean shakespeare-char?"),
        ("scripts/recipes/facts-chat.toml", "did you mean facts-chat?"),
        ("x", "check the spelling"),
    ],
)
def test_a_name_near_a_recipes_is_guessed(name, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="a recipe is one of facts-chat, ") as error:
        load_recipe(name)
    assert str(error.value).endswith(hint)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("train.step", "did you mean steps?"),
        ("model.n_layers", "did you mean num_hidden_layers?"),
        ("train.lr", "did you mean schedule.lr?"),
        ("shedule.lr", "did you mean schedule?"),
        ("optimizer.wieght_decay", "did you mean weight_decay?"),
        ("train.zebra", "got unknown zebra"),
    ],
)
def test_a_key_near_a_recipes_is_guessed(key, hint):
    def read():
        recipe = load_recipe("shakespeare-char", {"data.path": "x", key: 1})
        find_optimizer(recipe.optimizer.name).make_options(recipe.optimizer.options)

    with pytest.raises(RequestError) as error:
        read()
    assert str(error.value).endswith(hint)


@pytest.mark.parametrize("key", ["data.tokenizer", "data.vocab_size", "data.vocab_from"])
def test_a_tokenizer_setting_beside_a_model_to_tune_is_refused(tmp_path, key):
    path = write(tmp_path / "r.toml", '[data]\npath = "a.txt"\n[train]\nsteps = 1\n')
    value = 9 if key == "data.vocab_size" else "char"
    with pytest.raises(RequestError, match=f"must be that of model, as it is; got {key} too"):
        load_recipe(path, {"train.init": "model", key: value})
    if key != "data.tokenizer":
        with pytest.raises(RequestError, match=f"must be that of model, as it is; got {key} too"):
            load_recipe(path, {"data.tokenizer": "model", key: value})

"""train: what it prints, what it writes, and that generate and convert take the result."""

import io
import json
import os
import re
import shutil

import pytest
from rich.console import Console

import xplm as library
from tests.train.runs import tiny_recipe, write_text
from xplm.checkpoint.pull import EMBEDDED
from xplm.cli import output
from xplm.cli.train import describe, live_line
from xplm.train.evaluate import Evaluation
from xplm.train.loop import TrainProgress
from xplm.train.recipe import to_toml
from xplm.train.step import StepReport

HIDE_CURSOR = "\x1b[?25l"  # what a live line begins with

RESULT_KEYS = {
    "path",
    "parameters",
    "best_step",
    "skipped_steps",
    "step",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "perplexity",
    "lr",
    "grad_norm",
    "tokens_per_s",
    "loss_scale",
}


@pytest.fixture
def recipe(tmp_path):
    """A recipe file whose data are beside it."""
    settings = {"train__sample_prompts": ["the "], "train__sample_tokens": 4}
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(tiny_recipe(tmp_path, **settings)), encoding="utf-8")
    return path


def test_a_run_prints_its_directory_and_says_how_it_goes(xplm, recipe, tmp_path, draws_curves):
    out = xplm("train", recipe, "--out", tmp_path / "run")
    assert (out.code, out.stdout) == (0, f"{tmp_path / 'run'}\n")
    assert "parameters, 12 steps, into" in out.stderr
    assert "step 0/12  validation" in out.stderr
    assert "step 12/12  loss" in out.stderr
    assert "'the ' -> '" in out.stderr
    assert (tmp_path / "run/curves.png").read_bytes().startswith(b"\x89PNG")


def test_json_gives_the_last_of_every_metric(xplm, recipe, tmp_path):
    result = xplm("train", recipe, "--out", tmp_path / "run", "--json", "--quiet").json
    assert result.keys() == RESULT_KEYS
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert result["val_loss"] == json.loads(lines[-1])["val_loss"]
    assert result["parameters"] == sum(
        x.size for x in library.load(tmp_path / "run").params.values()
    )


def test_flags_take_the_place_of_the_recipes_values(xplm, recipe, tmp_path):
    other = write_text(tmp_path / "other.txt", 300)
    flags = ("--data", other, "--steps", 3, "--seed", 5, "--policy", "bf16", "--vocab-size", 280)
    settings = ("--set", "model.arch=gpt", "--set", "data.tokenizer=bpe")
    assert xplm("train", recipe, "--out", tmp_path / "run", *flags, *settings).code == 0
    written = (tmp_path / "run/recipe.toml").read_text()
    for line in (f'path = "{other}"', "steps = 3", "seed = 5", 'policy = "bf16"', 'arch = "gpt"'):
        assert line in written.splitlines()
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["model_type"], config["torch_dtype"]) == ("gpt2", "bfloat16")


def test_a_new_model_takes_the_tokenizer_of_another(xplm, recipe, tmp_path):
    taken = ("--set", "data.tokenizer=shakespeare")
    run = ("train", recipe, "--out", tmp_path / "run", *taken)
    assert xplm(*run, "--steps", 4).code == 0
    embedded = EMBEDDED["shakespeare"] / "tokenizer.json"
    assert json.loads((tmp_path / "run/tokenizer.json").read_text()) == json.loads(
        embedded.read_text()
    )
    assert json.loads((tmp_path / "run/config.json").read_text())["vocab_size"] == 1024
    assert xplm(*run, "--resume").code == 0

    again = xplm(*run[:-1], "data.tokenizer=char", "--resume", "--quiet")
    assert (
        "the tokenizer that it began with; got data.tokenizer: shakespeare -> char" in again.error
    )
    nowhere = xplm("train", recipe, "--out", tmp_path / "no", "--set", "data.tokenizer=wrod")
    assert "data.tokenizer is char, word, bpe or a model's" in nowhere.error


def test_examples_that_lose_their_end_are_counted(xplm, recipe, tmp_path):
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps("one two three four five six") + "\n" + 9 * '"one two"\n')
    kind = ("--data", lines, "--set", "data.kind=lines")
    out = xplm("train", recipe, "--out", tmp_path / "run", "--steps", 2, *kind)
    assert out.code == 0, out.error
    assert "1 of 10 lines are longer than data.context, 8, and lose their end" in out.stderr


def test_a_run_is_named_after_its_recipe(xplm, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert xplm("train", recipe, "--steps", 2).stdout == "runs/tiny\n"
    assert xplm("generate", "the cat", "--model", "runs/tiny", "--max-new-tokens", 3).code == 0


def test_resume_says_where_it_goes_on_and_what_changed(xplm, recipe, tmp_path):
    run = ("train", recipe, "--out", tmp_path / "run")
    (tmp_path / "run").mkdir()
    first = xplm(*run, "--steps", 4, "--resume")
    assert "no checkpoint yet; starting from the beginning" in first.stderr
    second = xplm(*run, "--resume")
    assert "going on from step 4" in second.stderr
    assert "otherwise than before: train.steps: 4 -> 12" in second.stderr
    assert "step 12/12" in second.stderr
    third = xplm("train", tmp_path / "run/recipe.toml", "--out", tmp_path / "run", "--resume")
    assert third.code == 0
    assert "otherwise" not in third.stderr


def test_a_tokenizer_beside_a_model_to_tune_is_refused_and_that_of_its_recipe_named(
    xplm, recipe, tmp_path
):
    assert xplm("train", recipe, "--out", tmp_path / "base", "--steps", 2).code == 0
    tune = ("train", recipe, "--init", tmp_path / "base", "--out", tmp_path / "run", "--steps", 2)
    out = xplm(*tune, "--vocab-size", 300)
    assert "the tokenizer must be that of" in out.error
    assert not (tmp_path / "run").exists()
    recipe.write_text(recipe.read_text().replace("[data]", '[data]\ntokenizer = "char"'))
    out = xplm(*tune, "--dry-run")
    assert "not read, for the tokenizer is that of" in out.stderr


def test_steps_that_are_passed_are_said_in_one_line(xplm, recipe, tmp_path):
    run = ("train", recipe, "--out", tmp_path / "run", "--steps")
    assert xplm(*run, 4).code == 0
    written = (tmp_path / "run/recipe.toml").read_bytes()
    out = xplm(*run, 2, "--resume", "--json")
    assert (out.code, out.json["step"]) == (0, 4)
    assert "the run has taken 4 steps of 2: nothing is left to do" in out.stderr
    assert (tmp_path / "run/recipe.toml").read_bytes() == written


def test_two_phases_end_in_a_chat(xplm, tmp_path, recipe):
    facts, talks = tmp_path / "facts.json", tmp_path / "talks.json"
    facts.write_text(json.dumps(["The sky is blue </s>", "Grass is green </s>"]))
    talks.write_text(json.dumps([f"User: {q}? Assistant: {q} </s>" for q in ("one", "two")]))
    words = ("--set", "data.tokenizer=word", "--set", f"data.vocab_from={talks}")
    lines = ("--set", "data.kind=lines", "--set", "data.held_out=0")
    plain = ("--set", "train.sample_prompts=[]")
    assert (
        xplm("train", recipe, "--data", facts, "--out", tmp_path / "a", *words, *lines, *plain).code
        == 0
    )
    chat = ("--set", "data.kind=chat", "--set", "data.held_out=0", "--init", tmp_path / "a")
    learn = ("--steps", 300, "--set", "train.eval_every=300", "--set", "data.batch_size=2")
    prompts = ("--set", 'train.sample_prompts=["one?"]')
    out = xplm("train", recipe, "--data", talks, "--out", tmp_path / "b", *chat, *learn, *prompts)
    assert out.code == 0
    assert "'one?' -> 'one'" in out.stderr
    assert "[model] is not read: the model is that of" in out.stderr
    for question in ("one", "two"):
        reply = xplm("generate", f"{question}?", "--chat", "--model", tmp_path / "b")
        assert reply.stdout == f"{question}\n"


def test_adapters_are_trained_used_and_merged(xplm, recipe, tmp_path):
    xplm("train", recipe, "--out", tmp_path / "base")
    base = ("--init", tmp_path / "base", "--lora", 2, "--set", "schedule.lr=0.05")
    assert (
        xplm("train", recipe, "--out", tmp_path / "adapter", *base, "--json").json["parameters"]
        < 3000
    )
    assert (tmp_path / "adapter/adapter_config.json").exists()

    merge = ("--merge", tmp_path / "adapter", "--dtype", "fp32")
    assert xplm("convert", tmp_path / "base", tmp_path / "merged", *merge).code == 0
    ask = ("generate", "the cat", "--max-new-tokens", 4, "--json", "--model")
    adapted = xplm(*ask, tmp_path / "base", "--adapter", tmp_path / "adapter").json
    assert xplm(*ask, tmp_path / "merged").json["token_ids"] == adapted["token_ids"]


def test_progress_is_one_line():
    report = StepReport(2.34567, 0.987, 0.0005, 64, 64, is_skipped=False)
    evaluation = Evaluation(2.5, 0.3, 100)
    progress = TrainProgress(120, report, evaluation, False, (), 512.0, 2, 12345.6, 3725.4)
    assert describe(progress, 2000) == (
        "step 120/2000  loss 2.3457  validation 2.5000  lr 5.00e-04  gradient 0.99  "
        "12,346 tokens/s  2 skipped, scale 512  1:02:05 left"
    )
    start = TrainProgress(0, None, None, True, (), 1.0, 0, None, None)
    assert describe(start, 2000) == "step 0/2000"


def test_a_bar_is_drawn_at_a_terminal(xplm, recipe, tmp_path, monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=200)
    monkeypatch.setattr(output.Output, "stderr", console)
    assert xplm("train", recipe, "--out", tmp_path / "run").code == 0
    assert HIDE_CURSOR in screen.getvalue()


def test_a_narrow_terminal_shows_the_whole_line():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    report = StepReport(2.34567, 0.987, 0.0005, 64, 64, is_skipped=False)
    progress = TrainProgress(
        120, report, Evaluation(2.5, 0.3, 100), False, (), 1.0, 0, 12345.6, 3725.4
    )
    description = describe(progress, 2000)
    with live_line(console, is_shown=True) as bar:
        bar.update(bar.add_task("", total=2000), description=description)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).split()
    assert " ".join(description.split()) in " ".join(shown)


def test_without_matplotlib_one_line_says_how_to_get_it(xplm, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("xplm.cli.train.can_draw", lambda: False)
    monkeypatch.setattr("xplm.train.loop.can_draw", lambda: False)
    out = xplm("train", recipe, "--out", tmp_path / "run", "--steps", 2)
    assert "no curves.png, which needs matplotlib: pip install matplotlib" in out.stderr
    assert not (tmp_path / "run/curves.png").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--set", "train.stpes=3"], "unknown stpes"),
        (["--set", "steps"], "a setting is SECTION.KEY=VALUE"),
        (["--data", "nowhere.txt"], "nowhere.txt"),
        (["--policy", "fp5"], "fp5"),
        (["--lora", "2"], "adapters go on from a model"),
        (["--init", "no-such-model"], "no-such-model"),
        (["--device", "tpu"], "tpu"),
        (["--set", "data.context=5000"], "training data must hold at least one window"),
    ],
)
def test_bad_input_is_one_line(xplm, recipe, tmp_path, flags, message):
    out = xplm("train", recipe, "--out", tmp_path / "run", *flags)
    assert message in out.error
    assert not (tmp_path / "run").exists()


def test_a_directory_with_a_run_is_refused(xplm, recipe, tmp_path):
    assert xplm("train", recipe, "--out", tmp_path / "run", "--steps", 2).code == 0
    assert "holds a run already" in xplm("train", recipe, "--out", tmp_path / "run").error


def test_a_recipe_that_is_not_there_is_refused(xplm, tmp_path):
    assert "or a TOML file that exists" in xplm("train", tmp_path / "none.toml").error


def test_a_data_file_whose_name_is_not_utf8_is_refused_in_one_line(xplm, recipe, tmp_path):
    name = os.fsdecode(b"caf\xe9.txt")
    out = xplm("train", recipe, "--out", tmp_path / "run", "--data", name)
    assert "data.path must be a name in UTF-8" in out.error
    assert not (tmp_path / "run").exists()


def test_bad_sampling_options_are_refused_before_a_directory_is_made(xplm, recipe, tmp_path):
    for setting in ("train.sample_tokens=0", "train.sample_temperature=-1.0"):
        out = xplm("train", recipe, "--out", tmp_path / "run", "--set", setting)
        assert "say how samples are drawn" in out.error
        assert not (tmp_path / "run").exists()


def test_a_tuned_model_is_resumed_though_the_model_it_began_from_is_gone(xplm, recipe, tmp_path):
    assert xplm("train", recipe, "--out", tmp_path / "base").code == 0
    steady = ("--set", "schedule.kind=constant")  # whatever the number of steps
    tune = ("train", recipe, "--init", tmp_path / "base", *steady, "--out")
    assert xplm(*tune, tmp_path / "unbroken").code == 0
    assert xplm(*tune, tmp_path / "broken", "--steps", 4).code == 0
    assert xplm(*tune, tmp_path / "adapters", "--steps", 4, "--lora", 2).code == 0
    shutil.rmtree(tmp_path / "base")

    again = xplm(*tune, tmp_path / "broken", "--resume")
    assert again.code == 0, again.stderr
    assert "going on from step 4" in again.stderr
    models = [tmp_path / run / "model.safetensors" for run in ("broken", "unbroken")]
    assert models[0].read_bytes() == models[1].read_bytes()
    adapters = ("train", tmp_path / "adapters/recipe.toml", "--out", tmp_path / "adapters")
    out = xplm(*adapters, "--steps", 6, "--resume", "--quiet")
    assert str(tmp_path / "base") in out.error


def test_a_first_run_with_resume_says_nothing_of_checkpoints(xplm, recipe, tmp_path):
    out = xplm("train", recipe, "--out", tmp_path / "run", "--steps", 2, "--resume")
    assert out.code == 0
    assert "checkpoint" not in out.stderr

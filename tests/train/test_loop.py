"""A whole run: what it leaves in its directory, and that transformers' files come out of it."""

import json
import shutil
from dataclasses import replace
from math import exp, inf

import numpy as np
import pytest

import xplm
from tests.train.runs import host_weights, run_to, start, tiny_recipe
from xplm.errors import CheckpointError, RequestError
from xplm.train import loop
from xplm.train.evaluate import evaluate
from xplm.train.metrics import JsonLines, Metrics, read_lines
from xplm.train.recipe import load_recipe
from xplm.train.run_directory import RunDirectory
from xplm.train.step import pass_params

KEYS = [
    "step",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "perplexity",
    "lr",
    "grad_norm",
    "tokens_per_s",
    "loss_scale",
]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "can_draw", lambda: False)
    recipe = tiny_recipe(tmp_path, train__sample_prompts=["the ", "a"], train__sample_tokens=5)
    return run_to(start(recipe, tmp_path / "run"))


def test_metrics_have_a_line_every_few_steps_and_at_each_evaluation(run):
    lines = read_lines(run.directory.path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [0, 2, 4, 6, 8, 10, 12]
    assert all(list(line) == KEYS for line in lines)
    for line in lines:
        is_evaluated = line["step"] % 4 == 0
        assert (line["val_loss"] is not None) == is_evaluated
        if is_evaluated:
            assert line["perplexity"] == pytest.approx(exp(line["val_loss"]))
            assert 0.0 <= line["val_accuracy"] <= 1.0
        assert (line["train_loss"] is None) == (line["step"] == 0)
    assert lines[-1]["val_loss"] < lines[0]["val_loss"]
    assert lines[1]["lr"] == pytest.approx(0.01 * 2 / 3)  # the second of two warm-up steps


def test_evaluation_is_the_mean_over_every_held_out_target(run):
    job = run.job
    params = pass_params(job.task, run.state.weights)
    result = evaluate(job.task.rt, job.task.config, params, job.dataset.validation())

    total, right, n = 0.0, 0, 0
    lm = xplm.load(run.directory.path)
    for batch in job.dataset.validation():
        for ids, targets in zip(batch.ids, batch.targets, strict=True):
            logits = lm.logits(ids.tolist()).astype(np.float64)
            for row, target in zip(logits, targets, strict=True):
                if target >= 0:
                    total += np.log(np.sum(np.exp(row))) - row[target]
                    right += int(np.argmax(row) == target)
                    n += 1
    assert result.n_targets == n == len(job.dataset.held_out) - 1
    assert result.loss == pytest.approx(total / n, rel=1e-6)
    assert result.accuracy == pytest.approx(right / n)
    assert read_lines(run.directory.path / "metrics.jsonl")[-1]["val_loss"] == result.loss


def test_samples_are_drawn_at_each_evaluation(run):
    lines = read_lines(run.directory.path / "samples.jsonl")
    assert [(line["step"], line["prompt"]) for line in lines] == [
        (step, prompt) for step in (0, 4, 8, 12) for prompt in ("the ", "a")
    ]
    greedy = {"max_new_tokens": 5, "temperature": 0.8, "seed": 0}
    lm = xplm.load(run.directory.path)
    assert lines[-1]["text"] == lm.generate("a", **greedy).text


def test_the_directory_is_the_model_and_the_last_checkpoints_and_the_best_are_kept(run):
    path = run.directory.path
    losses = {
        line["step"]: line["val_loss"]
        for line in read_lines(path / "metrics.jsonl")
        if line["val_loss"] is not None
    }
    assert run.state.best_loss == min(losses.values())
    assert run.state.best_step in (4, 8, 12)
    assert set(run.directory.checkpoints) == {8, 12} | {run.state.best_step}
    assert not list(path.rglob("*.partial"))

    lm = xplm.load(path)
    for name, weight in host_weights(run).items():
        np.testing.assert_array_equal(lm.params[name], weight)
    for checkpoint in run.directory.checkpoints.values():
        assert xplm.load(checkpoint).config == run.job.task.config


def test_the_best_checkpoint_outlives_many_worse_ones(tmp_path):
    trainer = start(tiny_recipe(tmp_path, train__keep=1), tmp_path / "run")
    trainer.directory.path.mkdir(exist_ok=True)
    for step, loss, best in ((1, 3.0, 1), (2, 2.0, 2), (3, 2.5, 2), (4, 2.6, 2)):
        trainer.state = trainer.state.__class__(
            **(vars(trainer.state) | {"step": step, "best_step": best, "best_loss": loss})
        )
        trainer.save()
    assert list(trainer.directory.checkpoints) == [2, 4]
    trainer.close()


def test_the_recipe_in_the_directory_is_the_runs(run):
    assert load_recipe(run.directory.path / "recipe.toml") == run.job.recipe


def test_a_second_run_does_not_write_over_the_first(run, tmp_path):
    with pytest.raises(RequestError, match="holds a run already; go on with it by --resume"):
        start(run.job.recipe, run.directory.path)


@pytest.mark.parametrize("resume", [False, True])
def test_what_is_not_a_run_is_not_written_over(tmp_path, resume):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "file").write_text("mine")
    for name in ("model", "file"):
        with pytest.raises(RequestError, match="needs a directory of its own"):
            start(tiny_recipe(tmp_path), tmp_path / name, resume=resume)
    assert (tmp_path / "model/config.json").read_text() == "{}"
    (tmp_path / "empty").mkdir()
    start(tiny_recipe(tmp_path), tmp_path / "empty", resume=resume).close()


def test_a_full_disk_leaves_the_checkpoints_as_they_were(tmp_path, monkeypatch):
    trainer = run_to(start(tiny_recipe(tmp_path), tmp_path / "run"), step=5)

    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("xplm.checkpoint.save.sync", refuse)
    with pytest.raises(CheckpointError, match="No space left on device"):
        trainer.save()
    monkeypatch.undo()
    assert list(trainer.directory.checkpoints) == [4]
    assert not list(trainer.directory.path.rglob("*.partial"))
    assert trainer.directory.load_newest(trainer.job.task.rt).step == 4
    assert list(xplm.load(trainer.directory.path).params) == list(trainer.job.task.specs)


def test_copies_stand_in_for_links_where_there_are_none(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    trainer = run_to(start(tiny_recipe(tmp_path), tmp_path / "run"))
    shutil.rmtree(trainer.directory.path / "checkpoints")
    weights = host_weights(trainer)
    for name, weight in xplm.load(trainer.directory.path).params.items():
        np.testing.assert_array_equal(weight, weights[name])


def test_a_run_without_held_out_data_has_no_validation(tmp_path):
    trainer = run_to(start(tiny_recipe(tmp_path, data__held_out=0), tmp_path / "run"))
    lines = read_lines(trainer.directory.path / "metrics.jsonl")
    assert all(
        line["val_loss"] is line["val_accuracy"] is line["perplexity"] is None for line in lines
    )
    assert (trainer.state.best_loss, trainer.state.best_step) == (inf, None)
    assert list(trainer.directory.checkpoints) == [8, 12]


def test_epochs_count_steps(tmp_path):
    recipe = tiny_recipe(tmp_path, train__steps=0, train__epochs=2.0, data__accumulation=3)
    trainer = start(recipe, tmp_path / "run")
    assert trainer.job.steps == round(2 * trainer.job.dataset.n_examples / 12)
    trainer.close()


def test_a_context_that_the_model_lacks_is_refused(tmp_path):
    recipe = tiny_recipe(tmp_path, model__max_position_embeddings=4)
    with pytest.raises(
        RequestError, match=r"data\.context must fit the model's 4 positions; got 8"
    ):
        start(recipe, tmp_path / "run")


@pytest.mark.parametrize(
    "changes",
    [
        {"model__arch": "bert"},
        {"model__position": "learned"},  # of a llama
        {"model__arch": "gpt", "model__num_key_value_heads": 1},
        {"optimizer__name": "adamx"},
        {"optimizer__beta3": 1.0},
        {"schedule__kind": "step"},
        {"train__policy": "fp5"},
        {"train__lora": 2},  # of no model
    ],
)
def test_what_a_recipe_asks_for_in_vain_is_refused_before_anything_is_made(tmp_path, changes):
    with pytest.raises(RequestError):
        start(tiny_recipe(tmp_path, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_line_that_was_cut_short_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    lines = JsonLines(path, upto=2)
    lines.append(Metrics(5, None, 1.0, None, None, None, None, None, 1.0))
    lines.close()
    assert [line["step"] for line in read_lines(path)] == [1, 2, 5]
    assert json.loads(path.read_text().splitlines()[-1])["val_loss"] == 1.0


def test_lines_that_a_crash_left_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\0\0\0\n[2]\n{"step": null}\n\xff\n{"step": 3}\n')
    JsonLines(path, upto=9).close()
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'


def test_lines_on_a_full_disk_are_one_clear_error(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl", upto=0)
    lines._file.close()
    with open("/dev/full", "w", encoding="utf-8") as lines._file:
        with pytest.raises(
            CheckpointError, match=r"metrics\.jsonl must be writable; got: No space"
        ):
            lines.append(Metrics(5, None, 1.0, None, None, None, None, None, 1.0))
        with pytest.raises(CheckpointError, match="No space left"):
            lines.close()


def test_a_model_that_has_diverged_is_not_saved(tmp_path):
    trainer = start(tiny_recipe(tmp_path), tmp_path / "run")
    run_to(trainer, 1)
    broken = {name: x * np.nan for name, x in trainer.state.masters.items()}
    trainer.state = replace(trainer.state, masters=broken)
    with pytest.raises(RequestError, match="validation loss must stay finite; after step 1"):
        trainer._evaluate(None)
    assert not trainer.directory.checkpoints


def test_a_directory_without_checkpoints_has_no_state(tmp_path, run):
    assert RunDirectory(tmp_path / "none").load_newest(run.job.task.rt) is None


def test_an_evaluation_takes_as_many_batches_as_the_recipe_says(tmp_path):
    trainer = start(tiny_recipe(tmp_path, train__eval_batches=1), tmp_path / "run")
    job, params = trainer.job, pass_params(trainer.job.task, trainer.state.weights)
    found = next(trainer.run()).evaluation
    trainer.close()
    one, every = (
        evaluate(job.task.rt, job.task.config, params, job.dataset.validation(n)) for n in (1, None)
    )
    assert found == one != every


def test_curves_that_cannot_be_written_are_a_warning_and_training_goes_on(
    tmp_path, caplog, draws_curves
):
    trainer = start(tiny_recipe(tmp_path), tmp_path / "run")
    (tmp_path / "run/curves.png").mkdir()
    run_to(trainer)
    assert trainer.state.step == 12
    (record,) = caplog.records
    assert "no more curves are drawn" in record.getMessage()
    assert "curves.png must be writable" in record.getMessage()


def test_curves_grow_between_evaluations_too(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_DRAWINGS", 0.0)
    monkeypatch.setattr(loop, "can_draw", lambda: True)
    monkeypatch.setattr(loop, "draw_curves", lambda path, lines: drawn.append(lines[-1]["step"]))
    run_to(start(tiny_recipe(tmp_path, train__eval_every=12), tmp_path / "run"))
    assert drawn == [0, 2, 4, 6, 8, 10, 12]

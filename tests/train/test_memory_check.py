"""A run that does not fit the free memory is refused before it costs anything."""

import pytest

from tests.train.runs import run_to, start, tiny_recipe, training_runtime
from xplm.errors import OutOfMemoryError
from xplm.train.memory import plan_step
from xplm.train.run_directory import RunDirectory

SMALL = 2**20
"""Free bytes of a machine that is almost full."""

HUGE = {
    "width": {"model__hidden_size": 10**6},
    "layers": {"model__hidden_size": 4096, "model__num_hidden_layers": 2000},
    "batch": {"data__batch_size": 10**9},
    "context": {"data__context": 10**9},
    "accumulation": {"data__accumulation": 10**10},
    "a batch beyond 64 bits": {"data__batch_size": 10**30},
    "a batch beyond floats": {"data__batch_size": 10**400},
    "lines": {"data__kind": "lines", "data__batch_size": 10**10},
}


@pytest.fixture
def free(monkeypatch):
    """Set what the machine has free."""

    def give(n_bytes):
        monkeypatch.setattr("xplm.host_memory.free_memory", lambda: n_bytes)

    return give


def needed_by(trainer, recipe):
    """Predicted bytes of a run's step, beside the process."""
    rt, task = trainer.job.task.rt, trainer.job.task
    return plan_step(rt, recipe, task.config, task.specs, rt.backend.memory()).peak.n_bytes


@pytest.mark.parametrize("name", sorted(HUGE))
def test_what_no_machine_holds_is_refused_before_anything_is_read(tmp_path, name):
    recipe = tiny_recipe(tmp_path, **HUGE[name])
    (tmp_path / "text.txt").unlink()
    with pytest.raises(OutOfMemoryError, match=r"must fit the .*; they take .*; lower "):
        start(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_block_that_no_machine_holds_is_not_measured(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("a block of these widths was measured")

    monkeypatch.setattr("xplm.train.memory.measure_pass", fail)
    with pytest.raises(OutOfMemoryError, match=r"parameters .*; lower model\.hidden_size"):
        start(tiny_recipe(tmp_path, model__hidden_size=10**6), tmp_path / "run")


def test_the_advice_names_what_is_large(tmp_path):
    def refusal(**settings):
        with pytest.raises(OutOfMemoryError) as caught:
            start(tiny_recipe(tmp_path, **settings), tmp_path / "run")
        return str(caught.value)

    assert "lower model.hidden_size" in refusal(model__hidden_size=10**6)
    assert "lower data.batch_size" in refusal(data__batch_size=10**9)


def test_the_vocabulary_counts_before_the_data_are_tokenised(tmp_path, free):
    free(SMALL)
    words = " ".join(f"word{i}" for i in range(5000))
    (tmp_path / "text.txt").write_text(words)
    with pytest.raises(OutOfMemoryError):
        start(tiny_recipe(tmp_path, data__tokenizer="word"), tmp_path / "run")
    assert not (tmp_path / "tokens").exists()


def test_a_run_that_fits_just_so_is_taken(tmp_path, free):
    recipe = tiny_recipe(tmp_path, train__steps=1)
    trainer = start(recipe, tmp_path / "first")
    trainer.close()
    needed = needed_by(trainer, recipe)
    free(needed)
    run_to(start(recipe, tmp_path / "second"))
    free(needed - 1)
    with pytest.raises(OutOfMemoryError):
        start(recipe, tmp_path / "third")


def test_lines_count_as_long_as_they_are(tmp_path, free):
    lines = {"data__kind": "lines", "data__context": 2**16, "train__steps": 1}
    recipe = tiny_recipe(tmp_path, **lines)
    free(16 * SMALL)  # a step of 2^16 tokens a row takes a hundred times as much
    run_to(start(recipe, tmp_path / "run"))
    with pytest.raises(OutOfMemoryError):
        start(tiny_recipe(tmp_path, data__packed=True, **lines), tmp_path / "packed")


def test_what_a_resumed_run_has_loaded_counts_once(tmp_path, free):
    recipe = tiny_recipe(tmp_path, train__steps=2)
    trainer = run_to(start(recipe, tmp_path / "run"))
    loaded = trainer.state.n_numbers * 4
    needed = needed_by(trainer, recipe)
    free(max(loaded * 2, needed - loaded))
    start(tiny_recipe(tmp_path, train__steps=3), tmp_path / "run", resume=True).close()
    free(loaded // 2)
    with pytest.raises(OutOfMemoryError, match="parameters and moments of a run must fit"):
        RunDirectory(tmp_path / "run").load_newest(training_runtime(recipe))


@pytest.mark.parametrize("lora", [0, 2])
def test_fine_tuning_is_checked_with_the_models_own_sizes(tmp_path, free, lora):
    run_to(start(tiny_recipe(tmp_path, train__steps=1), tmp_path / "base"))
    tuned = {"train__init": str(tmp_path / "base"), "train__lora": lora, "train__steps": 1}
    free(2 * SMALL)
    run_to(start(tiny_recipe(tmp_path, **tuned), tmp_path / f"tuned{lora}"))
    with pytest.raises(OutOfMemoryError, match=r"lower data\.batch_size"):
        start(tiny_recipe(tmp_path, data__batch_size=10**6, **tuned), tmp_path / "other")
    free(1000)
    with pytest.raises(OutOfMemoryError):
        start(tiny_recipe(tmp_path, **tuned), tmp_path / "other")


def test_a_step_that_runs_out_of_memory_is_one_line(tmp_path, monkeypatch):
    trainer = start(tiny_recipe(tmp_path), tmp_path / "run")

    def fail(*_):
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr("xplm.train.loop.train_step", fail)
    message = (
        r"a training step must fit the memory of cpu; got: Unable to allocate 9 GiB; .* are free"
    )
    with pytest.raises(OutOfMemoryError, match=message):
        run_to(trainer)
    trainer.close()

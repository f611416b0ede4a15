"""What a step moves between host and device: nothing but what is listed here, and each of it counted."""

from dataclasses import replace

import numpy as np
import pytest

from tests.tiny import facts
from tests.train.runs import start, tiny_recipe
from xplm.cli.bench import count_decode
from xplm.generate.engine import Engine
from xplm.models.decoder import param_specs
from xplm.numerics.tiny_models import TINY_MODELS, tiny_config
from xplm.params import init_params
from xplm.runtime import make_runtime
from xplm.train.step import train_step
from xplm.transfers import Transfers, count_transfers

INT, FLOAT = 8, 4  # bytes


@pytest.fixture
def refusing(device1, monkeypatch):
    """A device whose arrays become neither Python's numbers nor NumPy's, unless `to_host` asks."""

    def refuse(array):
        raise AssertionError("a number left the device unasked")

    kind = type(device1.from_host(np.zeros(())))
    for conversion in ("__float__", "__int__", "__bool__", "__index__"):
        monkeypatch.setattr(kind, conversion, refuse)
    return device1


def test_copies_are_counted_each_way(backend):
    counted, copies = count_transfers(backend)
    array = counted.from_host(np.zeros((2, 3), np.float32))
    assert copies == Transfers(1, 6 * FLOAT, 0, 0)
    counted.to_host(array[:, 0])
    counted.to_host(array)
    assert copies == Transfers(1, 6 * FLOAT, 2, 8 * FLOAT)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_decoded_token_moves_its_id_its_slot_its_angles_and_its_logits(refusing, name):
    config = tiny_config(TINY_MODELS[name])
    rt = make_runtime(refusing, "fp32")
    engine = Engine(rt, config, init_params(rt, param_specs(config), 0))
    copies = count_decode(engine, np.array([1, 2, 3]))
    half = facts(config).head_dim // 2
    angles = (1, INT) if facts(config).rope is None else (2, 2 * half * FLOAT)  # or its position
    arrays, n_bytes = 2 + angles[0], 2 * INT + angles[1]
    assert copies == Transfers(arrays, n_bytes, 1, config.vocab_size * FLOAT)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("counts", [(1, 1, 1), (2, 1, 1)], ids=str)
def test_rows_of_different_lengths_move_a_slot_a_row(refusing, name, counts):
    """And nothing else that single rows do not; where new tokens differ in number, the place of each row's last."""
    config = tiny_config(TINY_MODELS[name])
    backend, copies = count_transfers(refusing)
    rt = make_runtime(backend, "fp32")
    engine = Engine(rt, config, init_params(rt, param_specs(config), 0))
    cache = engine.allocate(3, 8)
    engine.feed(cache, [[1, 2, 3, 4], [5], [6, 2]])
    read = replace(copies)
    engine.feed(cache, [[1] * n for n in counts])

    B, T, half = 3, max(counts), facts(config).head_dim // 2
    ids, slots, last = B * T * INT, B * INT, B * INT
    angles = (1, B * T * INT) if facts(config).rope is None else (2, 2 * B * T * half * FLOAT)
    arrays, n_bytes = 2 + angles[0], ids + slots + angles[1]
    if len(set(counts)) > 1:
        arrays, n_bytes = arrays + 1, n_bytes + last
    expected = Transfers(arrays, n_bytes, 1, B * config.vocab_size * FLOAT)
    assert copies.since(read) == expected


def test_a_training_step_moves_the_batch_its_angles_the_loss_and_the_norm(refusing, tmp_path):
    trainer = start(tiny_recipe(tmp_path), tmp_path / "run", backend="strict", device="cuda")
    trainer.close()
    task = trainer.job.task
    backend, copies = count_transfers(refusing)
    batch = trainer.job.dataset.batch(0, 0)
    train_step(replace(task, rt=replace(task.rt, backend=backend)), trainer.state, [batch])

    B, T = batch.ids.shape
    half = facts(task.config).head_dim // 2
    ids_and_targets, cos_and_sin = 2 * B * T * INT, 2 * T * half * FLOAT
    assert copies == Transfers(4, ids_and_targets + cos_and_sin, 2, 2 * FLOAT)


def test_a_number_that_leaves_unasked_is_noticed(refusing):
    with pytest.raises(AssertionError, match="unasked"):
        float(refusing.from_host(np.ones((), np.float32)))

"""One step: what it does to the weights, on every policy and backend, and what leaves it as it was."""

from dataclasses import replace
from math import isfinite, log

import numpy as np
import pytest

from tests.on_backends import load_or_skip, on
from tests.train.runs import assert_bitwise_equal, host_weights, start, tiny_recipe
from xplm.errors import RequestError
from xplm.models.head import IGNORE_INDEX
from xplm.models.loss_scale import LossScale
from xplm.train.data import Batch
from xplm.train.step import train_step

pytestmark = pytest.mark.first

U32 = 2.0**-24


@pytest.fixture
def make_trainer(tmp_path):
    trainers = []

    def make(**settings):
        place = {key: settings.pop(key) for key in ("backend", "device") if key in settings}
        out = tmp_path / f"run{len(trainers)}"
        trainers.append(start(tiny_recipe(tmp_path, **settings), out, **place))
        return trainers[-1]

    yield make
    for trainer in trainers:
        trainer.close()


def take_steps(trainer, n_steps):
    reports = []
    for step in range(n_steps):
        batches = [trainer.job.dataset.batch(step, 0)]
        trainer.state, report = train_step(trainer.job.task, trainer.state, batches)
        reports.append(report)
    return reports


def test_the_first_loss_is_that_of_knowing_nothing_and_falls(make_trainer):
    trainer = make_trainer()
    reports = take_steps(trainer, 12)
    # The first logits are within a few initializer_range * sqrt(width) = 0.08 of 0.
    assert abs(reports[0].loss - log(trainer.job.tokenizer.vocab_size)) < 0.1
    assert reports[-1].loss < reports[0].loss - 0.2
    assert [report.n_targets for report in reports] == [32] * 12
    assert trainer.state.step == trainer.state.optimizer.step == 12


def test_the_state_before_a_step_stays_as_it_was(make_trainer):
    trainer = make_trainer(train__ema=0.9)
    before = trainer.state
    copies = {name: x.copy() for name, x in before.masters.items()}
    take_steps(trainer, 2)
    assert_bitwise_equal({name: np.asarray(x) for name, x in before.masters.items()}, copies)
    assert (before.step, before.optimizer.step) == (0, 0)


def test_unequal_micro_batches_weigh_by_their_tokens(make_trainer):
    trainer = make_trainer(optimizer__clip=0.0, optimizer__name="sgd")
    whole = trainer.job.dataset.batch(0)
    targets = whole.targets.copy()
    targets[0, 1:] = IGNORE_INDEX  # one target in row 0, 5 in row 1, 8 in rows 2 and 3
    targets[1, 5:] = IGNORE_INDEX
    whole = Batch(whole.ids, targets)
    parts = [Batch(whole.ids[i : i + 1], targets[i : i + 1]) for i in range(4)]

    task, state = trainer.job.task, trainer.state
    one, report = train_step(task, state, [whole])
    four, split_report = train_step(task, state, parts)
    assert split_report.n_targets == report.n_targets == 22
    assert split_report.loss == pytest.approx(report.loss, rel=1e-6)
    assert split_report.grad_norm == pytest.approx(report.grad_norm, rel=1e-6)
    for name, master in one.masters.items():
        np.testing.assert_allclose(four.masters[name], master, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("arch", ["llama", "gpt"])
def test_recompute_changes_no_bit(make_trainer, arch):
    trainers = [
        make_trainer(model__arch=arch, train__recompute=recompute, train__dropout=0.2)
        for recompute in (False, True)
    ]
    kept, recomputed = ([r.loss for r in take_steps(t, 3)] for t in trainers)
    assert kept == recomputed
    assert_bitwise_equal(host_weights(trainers[1]), host_weights(trainers[0]))


def test_clipping_bounds_the_whole_gradient(make_trainer):
    free, clipped = (make_trainer(optimizer__name="sgd", optimizer__clip=c) for c in (0.0, 1e-3))
    start_weights = host_weights(free)
    (report,), (clipped_report,) = (take_steps(t, 1) for t in (free, clipped))
    assert clipped_report.grad_norm == report.grad_norm > 1e-3

    moved = [host_weights(clipped)[name] - w for name, w in start_weights.items()]
    length = float(np.sqrt(sum(np.sum(m.astype(np.float64) ** 2) for m in moved)))
    # Adding lr g to weights of up to 1 rounds each of some thousand numbers by up to U32.
    n = sum(m.size for m in moved)
    assert length == pytest.approx(report.lr * 1e-3, abs=U32 * n**0.5)


@pytest.mark.parametrize(("policy", "tolerance"), [("bf16", 2.0**-8), ("fp16", 2.0**-11)])
def test_narrow_policies_keep_float32_masters_and_follow_fp32(make_trainer, policy, tolerance):
    wide, narrow = make_trainer(), make_trainer(train__policy=policy)
    expected, actual = (take_steps(t, 6) for t in (wide, narrow))
    assert {x.dtype for x in narrow.state.masters.values()} == {np.dtype(np.float32)}
    # Each of about 20 roundings on the way to a logit is off by the tolerance at most; losses are near 3.
    for a, b in zip(actual, expected, strict=True):
        assert abs(a.loss - b.loss) < 20 * tolerance
    assert narrow.state.scale.scale == (2.0**16 if policy == "fp16" else 1.0)


def test_an_overflow_halves_the_scale_skips_the_step_and_training_recovers(make_trainer):
    trainer = make_trainer(train__policy="fp16", train__ema=0.9, schedule__kind="constant")
    before = host_weights(trainer)
    trainer.state = replace(trainer.state, scale=LossScale(2.0**40, is_dynamic=True))
    (report,) = take_steps(trainer, 1)
    assert report.is_skipped
    assert isfinite(report.loss)  # it is the gradients that are scaled
    assert_bitwise_equal(host_weights(trainer), before)
    assert (trainer.state.step, trainer.state.optimizer.step) == (1, 0)
    assert trainer.state.scale == LossScale(2.0**39, 0, skipped=1, is_dynamic=True)

    reports = take_steps(trainer, 40)
    n_skipped = sum(report.is_skipped for report in reports)
    assert 0 < n_skipped < 40
    assert trainer.state.scale.skipped == 1 + n_skipped
    assert not reports[-1].is_skipped
    assert reports[-1].loss < report.loss


def test_a_loss_that_is_not_finite_stops_the_run_where_no_scale_can_help(make_trainer):
    trainer = make_trainer()
    masters = {name: x * np.float32(1e38) for name, x in trainer.state.masters.items()}
    trainer.state = replace(trainer.state, masters=masters)
    with pytest.raises(RequestError, match=r"must stay finite; at step 0"):
        take_steps(trainer, 1)


def test_the_average_is_that_of_the_masters(make_trainer):
    trainer = make_trainer(train__ema=0.5)
    expected = host_weights(trainer)
    for step in range(4):
        take_steps(trainer, 1)
        decay = min(0.5, (1 + step) / (10 + step))
        masters = trainer.state.masters
        expected = {n: w + np.float32(1 - decay) * (masters[n] - w) for n, w in expected.items()}
    for name, weight in host_weights(trainer).items():
        np.testing.assert_allclose(weight, expected[name], rtol=0, atol=8 * U32, err_msg=name)
        assert not np.array_equal(weight, masters[name])


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(make_trainer):
    trainers = [make_trainer(train__dropout=0.1, train__seed=seed) for seed in (1, 1, 2)]
    losses = [[report.loss for report in take_steps(t, 4)] for t in trainers]
    assert losses[0] == losses[1] != losses[2]
    assert_bitwise_equal(host_weights(trainers[0]), host_weights(trainers[1]))


PLACES = [
    ("torch", "cpu"),
    ("jax", "cpu"),
    ("strict", "cpu"),
    ("strict", "cuda"),  # its second address space, which no array leaves unasked
    ("cupy", "cuda"),
]


@pytest.mark.parametrize(
    ("backend", "device"), [pytest.param(*place, marks=on(place[0])) for place in PLACES]
)
@pytest.mark.nightly_on("jax")  # it compiles each op for each shape
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_backend_learns_the_same(make_trainer, backend, device, optimizer):
    settings = {"optimizer__name": optimizer, "train__dropout": 0.1, "train__ema": 0.9}
    load_or_skip(backend, device)
    expected = take_steps(make_trainer(**settings), 4)
    actual = take_steps(make_trainer(**settings, backend=backend, device=device), 4)
    for a, b in zip(actual, expected, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-4)

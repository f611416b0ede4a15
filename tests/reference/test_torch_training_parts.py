"""Clipping, the loss scale and the averaged weights against torch's, and a schedule against transformers'."""

import numpy as np
import pytest

from xplm.models.loss_scale import LossScale
from xplm.train.clip import clip_by_global_norm
from xplm.train.ema import ema_update
from xplm.train.schedule import make_schedule


@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clipping_equals_torchs(torch, max_norm):
    rng = np.random.default_rng(0)
    grads = {name: rng.standard_normal(shape) for name, shape in (("a", (7, 5)), ("b", (9,)))}
    params = [torch.zeros(grad.shape, dtype=torch.float64) for grad in grads.values()]
    for param, grad in zip(params, grads.values(), strict=True):
        param.grad = torch.tensor(grad)
    expected = float(torch.nn.utils.clip_grad_norm_(params, max_norm))

    clipped, norm = clip_by_global_norm(grads, max_norm)
    assert norm == pytest.approx(expected, rel=1e-14)
    for grad, param in zip(clipped.values(), params, strict=True):
        # torch divides by norm + 1e-6
        np.testing.assert_allclose(grad, param.grad.numpy(), rtol=1.01e-6 / norm, atol=0)


def test_the_loss_scale_goes_torchs_way(torch):
    scaler = torch.amp.GradScaler("cpu")
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    scale = LossScale(scaler.get_scale(), is_dynamic=True)
    overflows = [False, True, True, *[False] * 1999, True, *[False] * 2001]
    for overflow in overflows:
        scaler.scale(torch.zeros(1))
        weight.grad = torch.full((1,), np.inf if overflow else 1.0)
        scaler.step(optimizer)
        scaler.update()
        scale = scale.update(overflow)
        assert scale.scale == scaler.get_scale()
    assert scale.skipped == 3


def test_the_average_equals_torchs(torch):
    rng = np.random.default_rng(1)
    path = rng.standard_normal((10, 4, 3))
    average, theirs = {"w": path[0]}, [torch.tensor(path[0])]
    step = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    for weights in path[1:]:
        average = ema_update(average, {"w": weights}, 0.9)
        step(theirs, [torch.tensor(weights)], None)
    np.testing.assert_allclose(average["w"], theirs[0].numpy(), rtol=1e-14)


@pytest.mark.parametrize(("kind", "theirs"), [("linear", "linear"), ("cosine", "cosine")])
def test_a_late_decay_equals_transformers(torch, transformers, kind, theirs):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    scheduler = transformers.get_wsd_schedule(
        optimizer, 0, 30, num_training_steps=100, decay_type=theirs, min_lr_ratio=0.1
    )
    schedule = make_schedule(kind, lr=0.5, min_lr=0.05, steps=100, decay_steps=30)
    for step in range(102):
        assert schedule(step) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        scheduler.step()

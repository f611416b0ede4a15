"""Arrays that count themselves, counted by hand."""

import numpy as np
import pytest

from xplm.meter import Counted, Meter

N_BYTES = 2 * 3 * 4


@pytest.fixture
def meter():
    return Meter()


@pytest.fixture
def x(meter):
    return meter.count(np.ones((2, 3), np.float32))


MADE = {
    "sum": (lambda x: x + x, N_BYTES),
    "scalar": (lambda x: 1.0 - x, N_BYTES),
    "product": (lambda x: x @ x.T, 2 * 2 * 4),
    "reduction": (lambda x: np.mean(x, axis=-1, keepdims=True), 2 * 4),
    "comparison": (lambda x: x > 0, 2 * 3),
    "wide": (lambda x: np.astype(x, np.float64), 2 * N_BYTES),
    "where": (lambda x: np.where(np.ones((2, 3), bool), x, 0.0), N_BYTES),
    "concat": (lambda x: np.concat([x, x], axis=0), 2 * N_BYTES),
    "take": (lambda x: np.take(x, np.asarray([0]), axis=0), N_BYTES // 2),
    "like": (np.zeros_like, N_BYTES),
    "copy by reshape": (lambda x: np.reshape(x.T, (-1,)), N_BYTES),
    "view by reshape": (lambda x: np.reshape(x, (-1,)), 0),
    "transpose": (lambda x: np.permute_dims(x, (1, 0)), 0),
    "slice": (lambda x: x[:, :1], 0),
}


@pytest.mark.parametrize("name", sorted(MADE))
def test_what_is_made_counts_until_it_goes(meter, x, name):
    make, n_bytes = MADE[name]
    made = make(x)
    assert isinstance(made, Counted)
    assert meter.held == N_BYTES + n_bytes
    del made
    assert meter.held == N_BYTES


def test_a_view_holds_its_base(meter, x):
    row = (x + x)[0]
    assert meter.held == 2 * N_BYTES
    del row
    assert meter.held == N_BYTES


def test_the_peak_is_the_most_that_was_held_at_once(meter, x):
    y = (x + x) * 2.0  # the sum goes once its double is there
    assert meter.held == 2 * N_BYTES
    assert meter.peak == 3 * N_BYTES
    meter.note(5 * N_BYTES)
    assert meter.peak == y.nbytes + 6 * N_BYTES


def test_what_is_hidden_leaves_the_peak_as_it_is(meter, x):
    meter.is_hidden = True
    y = x + x
    del y
    meter.is_hidden = False
    assert meter.peak == N_BYTES == meter.largest


def test_a_few_rows_stand_for_many():
    meter = Meter(2, 10**30)
    x = meter.count(np.zeros((2, 3), np.float32))
    assert meter.held == meter.peak == meter.largest == x.nbytes * 10**30 // 2

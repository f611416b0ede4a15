"""Windows: what is next to what, what an epoch covers, and what validation scores."""

from collections import Counter

import numpy as np
import pytest

from xplm.errors import DataError
from xplm.models.head import IGNORE_INDEX
from xplm.train.data.windows import Windows, split


def windows(n: int, held_out: int = 0, **changes: int) -> Windows:
    tokens = np.arange(n + held_out, dtype=np.uint16)
    tokens.setflags(write=False)
    sizes = {"context": 4, "batch_size": 3, "n_micro": 1, "seed": 7} | changes
    return Windows(tokens[:n], tokens[n:], **sizes)


def test_split_holds_out_the_end() -> None:
    train, rest = split(np.arange(20), 0.1)
    assert (len(train), rest.tolist()) == (18, [18, 19])
    assert len(split(np.arange(20), 0.0)[1]) == 0


def test_targets_are_the_ids_one_to_the_right() -> None:
    batch = windows(100).batch(0)
    assert batch.ids.shape == batch.targets.shape == (3, 4)
    assert batch.ids.dtype == batch.targets.dtype == np.int64
    assert batch.n_targets == 12
    np.testing.assert_array_equal(batch.targets, batch.ids + 1)
    np.testing.assert_array_equal(batch.ids, batch.ids[:, :1] + np.arange(4))


@pytest.mark.parametrize(("n", "n_windows"), [(5, 1), (8, 1), (9, 1), (13, 2), (100, 23)])
def test_an_epoch_scores_a_token_at_most_once(n: int, n_windows: int) -> None:
    data = windows(n, batch_size=1)
    assert data.n_examples == n_windows
    assert data.tokens_per_epoch == 4 * n_windows
    for epoch in range(5):
        steps = range(epoch * n_windows, (epoch + 1) * n_windows)
        scored = np.sort(np.concatenate([data.batch(s).targets[0] for s in steps]))
        np.testing.assert_array_equal(scored, scored[0] + np.arange(4 * n_windows))
        assert scored[0] >= 1
        assert scored[-1] < n


def test_over_the_epochs_every_token_is_scored() -> None:
    data = windows(14, batch_size=2)  # room for two windows and 5 tokens
    scored = Counter(int(t) for step in range(200) for t in data.batch(step).targets.flat)
    assert sorted(scored) == list(range(1, 14))


def test_a_steps_batch_is_known_from_seed_and_step() -> None:
    np.testing.assert_array_equal(windows(100).batch(9).ids, windows(100).batch(9).ids)
    assert not np.array_equal(windows(100).batch(9).ids, windows(100, seed=8).batch(9).ids)
    assert not np.array_equal(windows(100).batch(9).ids, windows(100).batch(10).ids)


def test_micro_batches_are_the_parts_of_the_batch() -> None:
    whole = windows(100, batch_size=6).batch(5)
    data = windows(100, batch_size=2, n_micro=3)
    parts = [data.batch(5, micro).ids for micro in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), whole.ids)


@pytest.mark.parametrize("held_out", [2, 4, 5, 6, 12, 13, 14, 30])
def test_validation_scores_every_token_but_the_first_once(held_out: int) -> None:
    data = windows(10, held_out)
    batches = list(data.validation())
    ids = np.concatenate([batch.ids for batch in batches]).reshape(-1)
    targets = np.concatenate([batch.targets for batch in batches]).reshape(-1)
    n = held_out - 1
    np.testing.assert_array_equal(ids[:n], np.arange(10, 9 + held_out))
    np.testing.assert_array_equal(targets[:n], np.arange(11, 10 + held_out))
    assert (targets[n:] == IGNORE_INDEX).all()
    assert len(targets) < n + 4
    assert max(len(batch.ids) for batch in batches) <= 3


@pytest.mark.parametrize(
    ("at_most", "expected"),
    [(0, []), (1, [0]), (3, [0, 3, 6]), (4, [0, 2, 5, 7]), (99, [*range(10)])],
)
def test_some_batches_are_spread_over_all_that_is_held_out(
    at_most: int, expected: list[int]
) -> None:
    data = windows(10, 10 * 12 + 1)
    whole = [batch.ids.tolist() for batch in data.validation()]
    assert len(whole) == 10
    some = [batch.ids.tolist() for batch in data.validation(at_most)]
    assert some == [whole[i] for i in expected]


def test_nothing_held_out_is_nothing_to_validate() -> None:
    assert list(windows(10).validation()) == []
    assert list(windows(10).validation(5)) == []


def test_too_little_data_is_refused() -> None:
    with pytest.raises(DataError, match=r"one window of 4 \+ 1 tokens, got 4"):
        windows(4)
    with pytest.raises(DataError, match="at least 2 tokens, got 1"):
        windows(10, 1)

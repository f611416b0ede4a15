"""Examples side by side or in a row: nothing is lost, and padding is never scored."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xplm.errors import DataError
from xplm.models.head import IGNORE_INDEX
from xplm.train.data.examples import Example, Examples, make_examples

SIZES = {"context": 8, "batch_size": 2, "n_micro": 1, "seed": 0}


def example(length: int, first_id: int = 1) -> Example:
    """`length` inputs counted up from `first_id`."""
    return Example.from_ids(range(first_id, first_id + length + 1))


def dataset(
    lengths: list[int], *, held_out: float = 0.0, packed: bool = False, **changes: int
) -> Examples:
    examples = [example(length, 100 * i) for i, length in enumerate(lengths, 1)]
    return make_examples(examples, held_out=held_out, packed=packed, **(SIZES | changes))


def test_targets_are_the_next_ids_where_they_are_scored() -> None:
    ids, targets = Example.from_ids([5, 6, 7, 8], scored=[True, False, True, True])
    assert ids.tolist() == [5, 6, 7]
    assert targets.tolist() == [IGNORE_INDEX, 7, 8]


def test_a_batch_is_as_wide_as_its_longest() -> None:
    batch = dataset([2, 5]).batch(0)
    rows = sorted(zip(batch.ids.tolist(), batch.targets.tolist(), strict=True))
    assert rows == [
        ([100, 101, 0, 0, 0], [101, 102, *[IGNORE_INDEX] * 3]),
        ([200, 201, 202, 203, 204], [201, 202, 203, 204, 205]),
    ]
    assert batch.ids.dtype == batch.targets.dtype == np.int64
    assert batch.n_targets == 7


def test_packed_examples_share_rows_whole() -> None:
    data = dataset([3, 5, 6, 2, 8], packed=True)
    assert [row.ids.tolist() for row in data.rows] == [
        list(range(500, 508)),
        [*range(300, 306), *range(400, 402)],
        [*range(200, 205), *range(100, 103)],
    ]
    assert data.batch(0).ids.shape == (2, 8)
    assert (data.n_examples, data.tokens_per_epoch) == (3, 24)


@given(lengths=st.lists(st.integers(1, 8), min_size=1, max_size=30))
def test_packing_loses_nothing(lengths: list[int]) -> None:
    data = dataset(lengths, packed=True)
    scored = sorted(int(t) for row in data.rows for t in row.targets)
    assert scored == sorted(100 * i + j for i, n in enumerate(lengths, 1) for j in range(1, n + 1))
    assert max(len(row.ids) for row in data.rows) <= 8
    fullness = sorted(len(row.ids) for row in data.rows)
    assert sum(fullness[:2]) > 8 or len(fullness) == 1  # no two rows would fit into one


def test_what_is_too_long_loses_its_end_and_is_counted() -> None:
    data = dataset([9, 8, 20])
    assert [len(row.ids) for row in data.rows] == [8, 8, 8]
    assert data.report.n_cut == 2


def test_what_is_not_scored_is_left_out() -> None:
    late = Example.from_ids(range(11), scored=[False] * 10 + [True])
    data = make_examples([late, example(3)], held_out=0.0, packed=False, **SIZES)
    assert data.n_examples == 1
    assert data.report[:3] == (2, 0, 1)  # read, cut, left out
    with pytest.raises(DataError, match="got none of 1 examples"):
        make_examples([late], held_out=0.0, packed=False, **SIZES)


@pytest.mark.parametrize("packed", [False, True])
def test_the_end_is_held_out(packed: bool) -> None:
    data = dataset([1] * 10, held_out=0.3, packed=packed)
    held_out = [int(t) for batch in data.validation() for t in batch.targets.flat if t >= 0]
    assert sorted(held_out) == [801, 901, 1001]
    trained = {int(t) for step in range(20) for t in data.batch(step).targets.flat if t >= 0}
    assert trained == {100 * i + 1 for i in range(1, 8)}


def test_some_batches_are_spread_over_all_that_is_held_out() -> None:
    data = dataset([1] * 20, held_out=0.5, packed=False)
    whole = [batch.ids.tolist() for batch in data.validation()]
    assert [batch.ids.tolist() for batch in data.validation(2)] == [
        whole[0],
        whole[len(whole) // 2],
    ]


def test_an_epoch_shows_every_row_once() -> None:
    data = dataset([1, 2, 3, 4, 5, 6], n_micro=3)
    for step in range(5):
        first_ids = [i for micro in range(3) for i in data.batch(step, micro).ids[:, 0].tolist()]
        assert sorted(first_ids) == [100, 200, 300, 400, 500, 600]

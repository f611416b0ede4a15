"""A text as the mean of the decoder's last states."""

import numpy as np
import pytest

from tests.generate.tiny import tiny_model
from xplm.errors import RequestError
from xplm.generate import embed as module
from xplm.models.decoder import head_weight


def solve_states(lm, ids):
    """The last states, from the logits: a head of more rows than columns can be solved for them."""
    head = np.asarray(head_weight(lm.config, lm.params), np.float64)
    states, *_ = np.linalg.lstsq(head, lm.logits(ids).astype(np.float64).T, rcond=None)
    return states.T


def test_it_is_the_mean_of_the_states_under_the_head():
    lm = tiny_model()
    ids = lm.tokenizer.encode("hello, world")
    expected = solve_states(lm, ids).mean(0)
    found = lm.embed("hello, world")
    assert (found.shape, found.dtype) == ((32,), np.float32)
    # Logits are rounded to 2^-24 of some 30, and the head's least singular value is above 0.1.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_parts_do_not_show(monkeypatch):
    lm = tiny_model()
    ids = np.random.default_rng(1).integers(2, 258, 100).tolist()
    whole = lm.embed(ids)
    monkeypatch.setattr(module, "CHUNK", 7)
    # Attention over parts adds the same products in another order: some roundings of states of about 1.
    np.testing.assert_allclose(lm.embed(ids), whole, rtol=0, atol=1e-5)


def test_a_list_gives_a_row_for_each():
    lm = tiny_model()
    rows = lm.embed(["hello", [5, 6, 7]])
    np.testing.assert_array_equal(rows[0], lm.embed("hello"))
    np.testing.assert_array_equal(rows[1], lm.embed([5, 6, 7]))
    assert lm.embed([]).shape == (0, 32)


@pytest.mark.parametrize("text", ["", [999], "a" * 300, None])
def test_what_cannot_be_read_is_refused(text):
    with pytest.raises(RequestError):
        tiny_model().embed(text)

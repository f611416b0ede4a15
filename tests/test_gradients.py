"""The sink of a backward pass: what is wanted is kept or handed out, once, after its last use."""

import numpy as np

from xplm.gradients import Gradients

ONES = np.ones(2)


def test_everything_is_wanted_and_kept_unless_said_otherwise():
    grads = Gradients()
    grads.add("a", ONES)
    grads.add("b", None)
    assert grads.wants("anything")
    assert list(grads.found) == ["a"]


def test_what_is_not_trained_is_dropped():
    grads = Gradients({"a"})
    grads.add("a", ONES)
    grads.add("b", ONES)
    assert (grads.wants("a"), grads.wants("b")) == (True, False)
    assert list(grads.found) == ["a"]


def test_parts_add_up_and_the_sum_is_handed_out_once_after_the_last():
    seen = []
    grads = Gradients(uses={"tied": 2}, on_grad=lambda name, grad: seen.append((name, [*grad])))
    grads.add("tied", ONES)
    assert not seen
    grads.add("once", 3 * ONES)
    grads.add("tied", 4 * ONES)
    assert seen == [("once", [3.0, 3.0]), ("tied", [5.0, 5.0])]
    assert not grads.found

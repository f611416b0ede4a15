"""The same numbers laid out otherwise in memory, and what is the same of two results."""

import numpy as np


def spread(array):
    """The same numbers, every other of a larger array's, along its last axis."""
    wider = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wider[..., ::2] = array
    return wider[..., ::2]


def shifted(array):
    """The same numbers, one byte off their alignment."""
    store = np.zeros(array.nbytes + 1, np.uint8)[1:]
    moved = store.view(array.dtype).reshape(array.shape) if array.nbytes else array
    moved[...] = array
    return moved


def assert_same_bits(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one.astype(np.float64), other.astype(np.float64))

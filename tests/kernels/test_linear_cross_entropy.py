import tracemalloc

import numpy as np
import pytest

from tests.helpers import assert_close, pure, rounding_bound, to_numpy
from tests.places import on_places
from xplm.kernels import linear_cross_entropy
from xplm.kernels.cross_entropy import cross_entropy_bwd, cross_entropy_fwd
from xplm.kernels.linear_cross_entropy import linear_cross_entropy_bwd, linear_cross_entropy_fwd

OPTIONS = {"ignore_index": -100, "label_smoothing": 0.1, "z_loss": 0.01}


@pytest.mark.parametrize("has_bias", [False, True])
@on_places("logits_per_chunk", [1, 14, 1000], elsewhere=14)
def test_equals_linear_then_cross_entropy(place, monkeypatch, logits_per_chunk, has_bias):
    monkeypatch.setattr(linear_cross_entropy, "LOGITS_PER_CHUNK", logits_per_chunk)
    rng = np.random.default_rng(3)
    x, weight = place.array(rng.standard_normal((5, 3))), place.array(rng.standard_normal((7, 3)))
    targets = place.ids([1, -100, 0, 6, 6])
    bias = place.array(rng.standard_normal(7)) if has_bias else None
    arrays = (x, weight, targets, bias)[: 4 if has_bias else 3]
    losses, saved = pure(place.backend, linear_cross_entropy_fwd, *arrays, **OPTIONS)
    dx, dweight, none, dbias = linear_cross_entropy_bwd(place.array(np.ones(5), place.wide), saved)
    assert none is None

    xh, wh = to_numpy(place.backend, x), to_numpy(place.backend, weight)
    bh = to_numpy(place.backend, bias) if has_bias else np.zeros(7)
    expected, head = cross_entropy_fwd(xh @ wh.T + bh, to_numpy(place.backend, targets), **OPTIONS)
    dlogits, _ = cross_entropy_bwd(np.ones(5), head)
    size = abs(xh) @ abs(wh).T + abs(bh)
    bound = rounding_bound(place.wide, terms=10, magnitude=2 * size.max() + 3)
    assert_close(place.backend, losses, expected, dtype=place.wide, bound=bound)
    # The logits' own rounding, a share of their size, comes on top of the products'.
    bound = rounding_bound(place.dtype, terms=10, magnitude=4 * size.max(), wide=place.wide)
    assert_close(place.backend, dx, dlogits @ wh, dtype=place.dtype, bound=bound)
    bound = rounding_bound(place.wide, terms=10, magnitude=4 * size.max())
    assert_close(place.backend, dweight, dlogits.T @ xh, dtype=place.wide, bound=bound)
    if has_bias:
        bound = rounding_bound(place.wide, terms=10, magnitude=4 * size.max())
        assert_close(place.backend, dbias, dlogits.sum(0), dtype=place.wide, bound=bound)
    else:
        assert dbias is None


def test_the_logits_of_a_large_vocabulary_are_never_held_whole(numpy_backend, monkeypatch):
    N, C, V = 512, 8, 4096
    monkeypatch.setattr(linear_cross_entropy, "LOGITS_PER_CHUNK", 32 * V)
    rng = np.random.default_rng(4)
    x = rng.standard_normal((N, C)).astype(np.float32)
    weight = rng.standard_normal((V, C)).astype(np.float32)
    targets = rng.integers(0, V, N)

    tracemalloc.start()
    _, saved = linear_cross_entropy_fwd(x, weight, targets, ignore_index=-100)
    linear_cross_entropy_bwd(np.ones(N, np.float32), saved)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A handful of arrays of one chunk, 1/16 of the rows each; all logits would be N V numbers.
    assert peak < 0.6 * N * V * 4

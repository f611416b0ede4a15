import math

import numpy as np
import pytest

from tests import naive
from tests.helpers import Place, assert_close, pure, rounding_bound, to_numpy
from tests.places import on_places
from xplm.kernels.rope import rope_fwd, rope_tables
from xplm.precision import HOST_DTYPES


def tables(place, positions, inv_freq, *, scale=1.0, island=None):
    island = island or place.wide
    host = rope_tables(
        np.asarray(positions), np.asarray(inv_freq), scale=scale, dtype=HOST_DTYPES[island]
    )
    return tuple(place.backend.from_host(table) for table in host)


@pytest.mark.nightly_on("jax")
def test_quarter_turn_by_hand(backend):
    # D = 4: features (0, 2) and (1, 3) are the pairs. Position 1 turns the first by 90 degrees, the second by 0.
    place = Place(backend, "float64")
    cos, sin = tables(place, [[0, 1]], [math.pi / 2, 0.0])
    x = place.array([[[[1, 2, 3, 4], [1, 2, 3, 4]]]])
    y, saved = pure(backend, rope_fwd, x, cos, sin)
    expected = np.array([[[[1, 2, 3, 4], [-3, 2, 1, 4]]]])
    assert_close(backend, y, expected, dtype="float64", bound=8 * 2.0**-53 * 4)
    assert saved.cos is cos
    assert saved.sin is sin


def test_neighbours_by_hand(numpy_backend):
    # D = 6, R = 4: features (0, 1) and (2, 3) are the pairs. The first turns by 90 degrees, the second by 180.
    place = Place(numpy_backend, "float64")
    cos, sin = tables(place, [[1]], [math.pi / 2, math.pi])
    y, saved = pure(
        numpy_backend, rope_fwd, place.array([[[[1, 2, 3, 4, 5, 6]]]]), cos, sin, pairs="neighbours"
    )
    np.testing.assert_allclose(y, [[[[-2, 1, -3, -4, 5, 6]]]], rtol=0, atol=8 * 2.0**-53 * 6)
    assert saved.pairs == "neighbours"


@pytest.mark.parametrize("pairs", ["halves", "neighbours"])
@on_places("shape", [(1, 1, 1, 2), (2, 3, 5, 8), (1, 2, 4, 6)], elsewhere=(2, 3, 5, 8))
def test_equals_complex_rotation(place, shape, pairs):
    rng = np.random.default_rng(8)
    B, _, T, D = shape
    x = place.array(rng.standard_normal(shape))
    positions = rng.integers(0, 50, (B, T))
    inv_freq = 10000.0 ** (-np.arange(0, D, 2) / D)
    cos, sin = tables(place, positions, inv_freq, scale=1.25)
    y, _ = pure(place.backend, rope_fwd, x, cos, sin, pairs=pairs)

    xh = to_numpy(place.backend, x)
    expected = naive.rope(xh, positions, inv_freq, 1.25, pairs)
    # Angles up to 50 carry a rounding error of 50 u each, for the position times the frequency and for the frequency.
    partner = np.roll(np.arange(D), D // 2) if pairs == "halves" else np.arange(D) ^ 1
    magnitude = 1.25 * (abs(xh) + abs(xh[..., partner]))
    bound = rounding_bound(place.dtype, terms=60, magnitude=magnitude)
    assert_close(place.backend, y, expected, dtype=place.dtype, bound=bound)


def test_one_row_of_positions_serves_every_sequence(backend):
    place = Place(backend, "float32")
    x = place.array(np.random.default_rng(9).standard_normal((3, 2, 4, 6)))
    inv_freq = [1.0, 0.1, 0.01]
    shared, _ = rope_fwd(x, *tables(place, [[0, 1, 2, 3]], inv_freq))
    apart, _ = rope_fwd(x, *tables(place, [[0, 1, 2, 3]] * 3, inv_freq))
    np.testing.assert_array_equal(to_numpy(backend, shared), to_numpy(backend, apart))


def test_products_depend_on_the_distance_alone(numpy_backend):
    place = Place(numpy_backend, "float64")
    rng = np.random.default_rng(10)
    q, k = rng.standard_normal((2, 1, 1, 1, 8))
    inv_freq = 10000.0 ** (-np.arange(0, 8, 2) / 8)

    def product(query_at: int, key_at: int) -> float:
        turned_q, _ = rope_fwd(q, *tables(place, [[query_at]], inv_freq))
        turned_k, _ = rope_fwd(k, *tables(place, [[key_at]], inv_freq))
        return float((turned_q * turned_k).sum())

    assert product(7, 3) == pytest.approx(product(1004, 1000), abs=1e-11)  # angles of 1e3 u
    assert abs(product(7, 3) - product(8, 3)) > 1e-3


def test_bfloat16_tables_lose_positions(numpy_backend):
    # bfloat16 has no 15962: it becomes 15936, 26 radians off for the fastest pair. float32 tables keep it.
    assert float(np.asarray(15962).astype(HOST_DTYPES["bfloat16"])) == 15936
    place = Place(numpy_backend, "bfloat16")
    for island, position in (("float32", 15962), ("bfloat16", 15936)):
        cos, sin = tables(place, [[15962]], [1.0], island=island)
        u = 2.0**-24 if island == "float32" else 2.0**-8
        assert cos.dtype == sin.dtype == HOST_DTYPES[island]
        assert float(cos[0, 0, 0, 0]) == pytest.approx(math.cos(position), abs=2 * u)
        assert float(sin[0, 0, 0, 0]) == pytest.approx(math.sin(position), abs=2 * u)


@pytest.mark.parametrize("island", ["float64", "float32", "float16", "bfloat16"])
def test_dtypes_under_every_island(numpy_backend, island):
    for dtype in ("float64", "float32", "float16", "bfloat16"):
        place = Place(numpy_backend, dtype)
        cos, sin = tables(place, [[0, 1]], [0.5], scale=1.1, island=island)
        assert cos.dtype == sin.dtype == HOST_DTYPES[island]
        y, _ = rope_fwd(place.array(np.ones((1, 1, 2, 2))), cos, sin)
        assert y.dtype == HOST_DTYPES[dtype]

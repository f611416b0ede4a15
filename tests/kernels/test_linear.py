from itertools import product

import numpy as np

from tests import naive
from tests.helpers import Place, assert_close, pure, rounding_bound, to_numpy
from tests.places import on_places
from xplm.backend import Backend
from xplm.kernels.linear import linear_fwd


def test_two_inputs_three_outputs_by_hand(backend):
    place = Place(backend, "float32")
    x, weight = place.array([[1, 2]]), place.array([[3, 4], [5, 6], [7, 8]])
    y, saved = pure(backend, linear_fwd, x, weight, place.array([1, 0, -1]))
    assert_close(backend, y, np.array([[12, 17, 22]]), dtype="float32", bound=0)
    assert saved.x is x
    assert saved.weight is weight

    y, saved = pure(backend, linear_fwd, x, weight)
    assert_close(backend, y, np.array([[11, 17, 23]]), dtype="float32", bound=0)
    assert saved.bias is None


@on_places(
    ("shape", "has_bias"),
    product([(7,), (1, 7), (2, 3, 7), (1, 1, 1), (3, 1), (0, 7)], (False, True)),
    elsewhere=((2, 3, 7), True),
)
def test_equals_the_sum_of_products(place, shape, has_bias):
    rng = np.random.default_rng(1)
    x = place.array(rng.standard_normal(shape))
    weight = place.array(rng.standard_normal((5, shape[-1])))
    bias = place.array(rng.standard_normal(5)) if has_bias else None
    y, _ = pure(place.backend, linear_fwd, x, weight, bias)

    xh, wh = to_numpy(place.backend, x), to_numpy(place.backend, weight)
    bh = None if bias is None else to_numpy(place.backend, bias)
    magnitude = naive.linear(abs(xh), abs(wh), None if bh is None else abs(bh))
    bound = rounding_bound(place.dtype, terms=shape[-1] + 1, magnitude=magnitude)
    assert_close(place.backend, y, naive.linear(xh, wh, bh), dtype=place.dtype, bound=bound)


def test_products_accumulate_wide(place):
    # In bfloat16 a running sum of ones stalls at 256, in float16 at 2048.
    ones = place.array(np.ones((1, 4096)))
    y, _ = linear_fwd(ones, ones)
    assert_close(place.backend, y, np.array([[4096]]), dtype=place.dtype, bound=0)


def test_result_is_rounded_once(place):
    # 1 + 2^-12 rounds to 1 in half precision; twice in a row, bias last, it would lose the bias's half as well.
    u = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
    half = u[place.dtype] * 0.75
    x, weight, bias = place.array([[1, half]]), place.array([[1, 1]]), place.array([half])
    y, _ = linear_fwd(x, weight, bias)
    if place.wide != place.dtype:
        assert to_numpy(place.backend, y)[0, 0] == 1 + 2 * u[place.dtype]
    else:
        assert to_numpy(place.backend, y)[0, 0] in (1, 1 + 2 * u[place.dtype])


def test_activations_decide_the_dtype(numpy_backend: Backend):
    narrow, full = Place(numpy_backend, "bfloat16"), Place(numpy_backend, "float32")
    y, _ = linear_fwd(full.array([[1, 2]]), narrow.array([[3, 4]]), narrow.array([5]))
    assert_close(numpy_backend, y, np.array([[16]]), dtype="float32", bound=0)

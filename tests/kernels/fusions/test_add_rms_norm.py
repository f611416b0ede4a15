import numpy as np
import pytest
from xplm_numpy.kernels import FUSED

from tests.backends.numpy.layouts import assert_same_bits, shifted, spread
from tests.helpers import frozen, pure
from tests.kernels.fusions.bounds import EPS, WIDE, assert_within, draw, rounded, stored
from xplm.kernels import PORTABLE
from xplm.kernels.fusions import FUSIONS
from xplm.numerics.gradient_check import OP_LIMIT, check_gradients
from xplm.numerics.parity.op_bounds import OP_BOUNDS
from xplm.precision import HOST_DTYPES

SHAPES = [(1, 1, 33), (2, 3, 7), (4, 1), (1, 65, 9), (3, 50, 40), (0, 4)]
"""Of x; two have more rows than are taken at once, the last has none."""


def make_arguments(dtypes, shape):
    """x, branch, weight, and the gradients of both results."""
    activation, weight = dtypes
    rng = np.random.default_rng(53)
    x, branch, dy, dn = (draw(rng, activation, *shape) for _ in range(4))
    return x, branch, draw(rng, weight, shape[-1]), dy, dn


def run(table, x, branch, weight, dy, dn, **options):
    """(y, n, dx, dweight)"""
    y, n, saved = table["add_rms_norm_fwd"](x, branch, weight, eps=EPS, **options)
    return y, n, *table["add_rms_norm_bwd"](dy, dn, saved)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_what_its_ops_are(fusions, dtypes, shape):
    x, branch, weight, dy, dn = make_arguments(dtypes, shape)
    y, n, dx, dweight = run(fusions, x, branch, weight, dy, dn, island=WIDE.dtype)
    np.testing.assert_array_equal(y, x + branch)
    assert y.dtype == x.dtype

    norm, options = OP_BOUNDS["rms_norm"], {"eps": EPS, "island": WIDE.dtype}
    assert_within(n, rounded(*norm.forward([y, weight], options)))
    through_norm, expected_dweight = norm.backward(dn, [y, weight], options)
    total = WIDE.plus(stored(dy).ball, rounded(*through_norm).ball)
    assert_within(dx, rounded(total, y.dtype))
    assert_within(dweight, rounded(*expected_dweight))


def test_gradients(backend):
    rng = np.random.default_rng(54)
    shape = (2, 3, 5)
    arrays = {"x": rng.standard_normal(shape), "branch": rng.standard_normal(shape)}
    arrays["weight"] = rng.standard_normal(5)
    dy, dn = rng.standard_normal((2, *shape))

    def forward():
        on_device = [backend.from_host(array.copy()) for array in arrays.values()]
        return pure(backend, FUSIONS["add_rms_norm_fwd"], *on_device, eps=0.1)

    def weighed_sum():
        y, n, _ = forward()
        return float(np.sum(backend.to_host(y) * dy + backend.to_host(n) * dn))

    *_, saved = forward()
    given = [backend.from_host(array) for array in (dy, dn)]
    dx, dweight = (backend.to_host(d) for d in FUSIONS["add_rms_norm_bwd"](*given, saved))
    found = check_gradients(weighed_sum, arrays, {"x": dx, "branch": dx, "weight": dweight})
    for error in found:
        assert error.error <= OP_LIMIT, error


@pytest.mark.parametrize("table", [PORTABLE | FUSIONS, PORTABLE | FUSED], ids=["portable", "fused"])
def test_where_nothing_was_added_the_way_back_is_the_same(table, dtypes):
    x, branch, *rest = make_arguments(dtypes, (2, 70, 12))
    weight, dy, dn = rest
    y, n, dx, dweight = run(table, x, np.zeros_like(branch), *rest)
    alone, saved = table["rms_norm_fwd"](x, weight, eps=EPS)
    assert_same_bits((y, n), (x, alone))
    assert_same_bits((dx, dweight), table["add_rms_norm_bwd"](dy, dn, saved))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fused_it_rounds_as_the_two_fused_ops(dtypes, shape):
    x, branch, weight, dy, dn = make_arguments(dtypes, shape)
    y, n, dx, dweight = run(FUSED, x, branch, weight, dy, dn)
    expected, saved = FUSED["rms_norm_fwd"](x + branch, weight, eps=EPS)
    through_norm, expected_dweight = FUSED["rms_norm_bwd"](dn, saved)
    assert_same_bits(
        (y, n, dx, dweight), (x + branch, expected, dy + through_norm, expected_dweight)
    )


@pytest.mark.parametrize("island", ["float64", "float16"])
def test_another_island_is_the_compositions(dtypes, island):
    arrays, options = make_arguments(dtypes, (3, 8)), {"island": HOST_DTYPES[island]}
    assert_same_bits(*[run(table, *arrays, **options) for table in (FUSED, PORTABLE | FUSIONS)])


NAMES = ("x", "branch", "weight", "dy", "dn")
UNLIKE = [
    dict.fromkeys(NAMES, "float64"),
    {"x": "float64"},
    {"x": "bfloat16"},
    {"branch": "bfloat16"},
    {"branch": "float64"},
    {"weight": "float64"},
    {"dy": "bfloat16"},
    {"dn": "float64"},
]


def assert_handed_on(arrays, changed):
    """Whichever way has a changed argument, fused it gives the bits of the composition."""
    x, branch, weight, dy, dn = arrays.values()
    fused, portable = (
        table["add_rms_norm_fwd"](x, branch, weight, eps=EPS) for table in (FUSED, FUSIONS)
    )
    if changed & {"x", "branch", "weight"}:
        assert_same_bits(fused[:2], portable[:2])
    saved = portable[2]
    if changed & {"x", "weight", "dy", "dn"}:
        assert_same_bits(*[t["add_rms_norm_bwd"](dy, dn, saved) for t in (FUSED, FUSIONS)])
    return fused[:2]


@pytest.mark.parametrize("changes", UNLIKE, ids=str)
def test_unlike_dtypes_are_the_compositions(changes):
    arrays = dict(zip(NAMES, make_arguments(("float32", "float32"), (3, 8)), strict=True))
    arrays |= {name: arrays[name].astype(HOST_DTYPES[dtype]) for name, dtype in changes.items()}
    y, n = assert_handed_on(arrays, changes.keys())
    assert y.dtype == n.dtype == arrays["x"].dtype


@pytest.mark.parametrize("name", ["branch", "weight", "dy", "dn"])
def test_what_is_broadcast_is_the_compositions(name):
    arrays = dict(zip(NAMES, make_arguments(("float32", "float32"), (3, 4, 8)), strict=True))
    arrays[name] = arrays[name][:1]
    assert_handed_on(arrays, {name})


@pytest.mark.parametrize("moved", [frozen, spread, shifted])
def test_arguments_may_be_read_only_strided_and_misaligned(dtypes, moved):
    arrays = make_arguments(dtypes, (3, 25, 10))
    assert_same_bits(run(FUSED, *[moved(array) for array in arrays]), run(FUSED, *arrays))


def test_threads_and_runs_change_no_bit(fusions, dtypes, on_threads):
    arrays = make_arguments(dtypes, (5, 40, 17))
    once, *others = (on_threads(n, run, fusions, *arrays) for n in (1, 2, 2))
    for other in others:
        assert_same_bits(other, once)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("of", ["x", "branch"])
def test_what_is_not_finite_shows(bad, of):
    arrays = dict(zip(("x", "branch"), np.ones((2, 3, 4), np.float32), strict=True))
    arrays[of][1, 2] = bad
    with np.errstate(invalid="ignore"):
        found, expected = (
            table["add_rms_norm_fwd"](*arrays.values(), np.ones(4, np.float32), eps=EPS)[:2]
            for table in (FUSED, FUSIONS)
        )
    assert not np.isfinite(found[0][1, 2])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.isfinite(one), np.isfinite(other))

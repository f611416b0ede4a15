import numpy as np
import pytest

from tests.kernels.fusions.bounds import assert_within, draw, heads, linear, rms_norm, rope, stored

EPS = 1e-5


def make_arguments(dtypes, *, B, C, H, K, D, bias, T=1, rows=None):
    rng = np.random.default_rng(50)
    activation, weight = dtypes
    outputs = (H * D, K * D, K * D)
    angles = rng.uniform(0, 6, (rows or B, 1, T, D // 2))
    return [
        draw(rng, activation, B, T, C),
        draw(rng, weight, C),
        *[draw(rng, weight, n, C, scale=C**-0.5) for n in outputs],
        *[draw(rng, weight, n) if bias else None for n in outputs],
        np.cos(angles).astype(np.float32),
        np.sin(angles).astype(np.float32),
    ]


def expected(x, norm, *rest):
    weights, biases, (cos, sin) = rest[:3], rest[3:6], rest[6:]
    n = rms_norm(stored(x), norm, EPS)
    q, k, v = (
        heads(linear(n, w, b), 2 * cos.shape[-1]) for w, b in zip(weights, biases, strict=True)
    )
    return rope(q, cos, sin), rope(k, cos, sin), v


@pytest.mark.parametrize(
    "shape",
    [
        {"B": 1, "C": 33, "H": 4, "K": 2, "D": 6, "bias": True},
        {"B": 1, "C": 1, "H": 1, "K": 1, "D": 2, "bias": False},
        {"B": 7, "C": 64, "H": 3, "K": 1, "D": 10, "bias": False},
        {"B": 4, "C": 17, "H": 2, "K": 2, "D": 8, "bias": True, "rows": 1},
        {"B": 2, "C": 8, "H": 2, "K": 1, "D": 4, "bias": True, "T": 3},
    ],
    ids=str,
)
def test_is_what_its_ops_are(fusions, dtypes, shape):
    arguments = make_arguments(dtypes, **shape)
    actual = fusions["norm_qkv_rope"](*arguments, eps=EPS, wide=np.dtype(np.float32))
    for array, ball in zip(actual, expected(*arguments), strict=True):
        assert_within(array, ball)


def test_weights_of_several_dtypes(fusions):
    arguments = make_arguments(("float32", "float32"), B=2, C=9, H=2, K=1, D=4, bias=False)
    arguments[3] = arguments[3].astype("bfloat16")
    actual = fusions["norm_qkv_rope"](*arguments, eps=EPS)
    for array, ball in zip(actual, expected(*arguments), strict=True):
        assert_within(array, ball)


def test_threads_and_runs_change_no_bit(fusions, dtypes, on_threads):
    arguments = make_arguments(dtypes, B=5, C=65, H=4, K=2, D=8, bias=True)
    fusion = fusions["norm_qkv_rope"]
    once, *others = (on_threads(n, fusion, *arguments, eps=EPS) for n in (1, 2, 2))
    for other in others:
        for a, b in zip(once, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_strided_and_misaligned_input(fusions):
    x, norm, q, k, v, *rest = make_arguments(
        ("bfloat16", "bfloat16"), B=2, C=24, H=2, K=1, D=8, bias=False
    )
    misaligned = np.frombuffer(b"\0" + q.tobytes(), q.dtype, offset=1).reshape(q.shape)
    assert not misaligned.flags.aligned
    strided = [np.repeat(a, 2, axis=-1)[..., ::2] for a in (x, norm)]
    odd = (*strided, misaligned, np.asfortranarray(k), v, *rest)
    for array, ball in zip(
        fusions["norm_qkv_rope"](*odd, eps=EPS), expected(x, norm, q, k, v, *rest), strict=True
    ):
        assert_within(array, ball)

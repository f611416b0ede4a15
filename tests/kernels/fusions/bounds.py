"""The ops of a decoder block in balls that are handed from op to op: what a fusion may be off by."""

from typing import NamedTuple

import numpy as np

from xplm.numerics.parity.attention_bounds import attend_balls
from xplm.numerics.parity.bounds import Arithmetic, Ball, exact, may_round
from xplm.precision import HOST_DTYPES
from xplm.typing import LayerCache

WIDE = Arithmetic(np.dtype(np.float32))
EPS = 1e-5
"""Of the norms."""


class Stored(NamedTuple):
    """A tensor of a fusion: its numbers, and the format that a kernel may round them to."""

    ball: Ball
    dtype: np.dtype


def stored(array):
    """An array as it is."""
    return Stored(exact(array), array.dtype)


def rounded(ball, dtype):
    """An intermediate, which a kernel may store or not."""
    return Stored(may_round(ball, dtype), dtype)


def rms_norm(x, weight, eps):
    mean_square = WIDE.mean(WIDE.times(x.ball, x.ball))
    rstd = WIDE.over(WIDE.scalar(1.0), WIDE.root(WIDE.plus(mean_square, WIDE.scalar(eps))))
    n = may_round(WIDE.times(x.ball, rstd), x.dtype)
    return rounded(WIDE.times(n, may_round(exact(weight), x.dtype)), x.dtype)


def linear(x, weight, bias):
    y = WIDE.matmul(x.ball, exact(weight.T))
    if bias is not None:
        y = WIDE.plus(y, exact(bias))
    return rounded(y, x.dtype)


def rope(x, cos, sin):
    half = x.ball.mid.shape[-1] // 2
    x1, x2 = x.ball.map(lambda a: a[..., :half]), x.ball.map(lambda a: a[..., half:])
    c, s = exact(cos), exact(sin)
    y1 = WIDE.minus(WIDE.times(x1, c), WIDE.times(x2, s))
    y2 = WIDE.plus(WIDE.times(x2, c), WIDE.times(x1, s))
    return rounded(Ball(*[np.concatenate(pair, -1) for pair in zip(y1, y2, strict=True)]), x.dtype)


def attention(q, keys, values, first, *, start, **options):
    """Heads (B, H, T, D), and what is written of keys and of values: pairs of a whole cache and of what comes anew."""
    read, written = [], []
    for cache, new in (keys, values):
        written.append(rounded(new.ball, cache.dtype))
        old = exact(cache[:, :, :start])
        balls = zip(old, written[-1].ball, strict=True)
        read.append(Ball(*[np.concatenate(pair, axis=2) for pair in balls]))
    options = {"start": start, "island": WIDE.dtype, **options}
    return rounded(attend_balls(q.ball, *read, first, options), q.dtype), written


def swiglu(gate, up):
    silu = WIDE.times(gate.ball, WIDE.sigmoid(gate.ball))
    return rounded(WIDE.times(silu, up.ball), gate.dtype)


def plus(x, y):
    return rounded(WIDE.plus(x.ball, y.ball), x.dtype)


def heads(x, D):
    """(B, T, N D) as (B, N, T, D)."""

    def split(a):
        return a.reshape(*a.shape[:2], -1, D).transpose(0, 2, 1, 3)

    return Stored(x.ball.map(split), x.dtype)


def joined(x):
    """(B, N, T, D) as (B, T, N D)."""
    B, _, T, _ = x.ball.mid.shape
    return Stored(x.ball.map(lambda a: a.transpose(0, 2, 1, 3).reshape(B, T, -1)), x.dtype)


def attention_half(x, norm, *linears, cos, sin, keys, values, first, **options):
    """What `norm_attention_residual` gives, and pairs of what it writes, of keys and of values."""
    weights, biases = linears[:4], linears[4:]
    n = rms_norm(x, norm, EPS)
    q, k, v = (
        heads(linear(n, w, b), 2 * cos.shape[-1])
        for w, b in zip(weights[:3], biases[:3], strict=True)
    )
    q, k = rope(q, cos, sin), rope(k, cos, sin)
    y, written = attention(q, (keys, k), (values, v), first, **options)
    return plus(x, linear(joined(y), weights[3], biases[3])), written


def mlp_half(x, norm, *linears):
    """What `norm_mlp_residual` gives."""
    weights, biases = linears[:3], linears[3:]
    n = rms_norm(x, norm, EPS)
    gate, up = (linear(n, w, b) for w, b in zip(weights[:2], biases[:2], strict=True))
    return plus(x, linear(swiglu(gate, up), weights[2], biases[2]))


def assert_written(cache, before, written, start):
    """A cache (keys, values) holds in the slots from `start` on what was written, and all others as before."""
    for array, old, new in zip(cache, before, written, strict=True):
        end = start + new.ball.mid.shape[2]
        assert_within(array[:, :, start:end], new)
        for others in (slice(0, start), slice(end, None)):
            np.testing.assert_array_equal(array[:, :, others], old[:, :, others])


def assert_within(array, expected):
    """An array has the dtype and lies in the balls."""
    assert array.dtype == expected.dtype
    assert array.shape == expected.ball.mid.shape
    excess = np.abs(array.astype(np.float64) - expected.ball.mid) - expected.ball.rad
    assert np.max(excess, initial=0.0) <= 0.0


def draw(rng, dtype, *shape, scale=1.0):
    """Random numbers as a policy stores them, read-only."""
    array = (scale * rng.standard_normal(shape)).astype(HOST_DTYPES[dtype])
    array.flags.writeable = False
    return array


def make_cache(keys, values, start):
    """A copy of what a cache holds, laid out alike, to be written to from `start` on."""
    keys, values = keys.copy(order="K"), values.copy(order="K")

    def write(k, v):
        end = start + k.shape[2]
        keys[:, :, start:end], values[:, :, start:end] = k, v
        return keys[:, :, :end], values[:, :, :end]

    return LayerCache(keys, values, write)

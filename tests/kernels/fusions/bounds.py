"""The ops of a decoder block in balls that are handed from op to op: what a fusion may be off by."""

from typing import NamedTuple

import numpy as np

from xplm.numerics.parity.attention_bounds import attend_balls
from xplm.numerics.parity.bounds import Arithmetic, Ball, exact, may_round
from xplm.precision import HOST_DTYPES
from xplm.views import KeyView, LayerCache, Rows

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


def rope(x, cos, sin, pairs="halves"):
    """The leading features of a head; the others are as they were."""
    half = cos.shape[-1]
    order = np.arange(x.ball.mid.shape[-1])
    if pairs == "neighbours":
        order[: 2 * half] = [*range(0, 2 * half, 2), *range(1, 2 * half, 2)]
    heads = x.ball.map(lambda a: a[..., order])
    x1, x2 = heads.map(lambda a: a[..., :half]), heads.map(lambda a: a[..., half : 2 * half])
    rest = heads.map(lambda a: a[..., 2 * half :])
    c, s = exact(cos), exact(sin)
    y1 = WIDE.minus(WIDE.times(x1, c), WIDE.times(x2, s))
    y2 = WIDE.plus(WIDE.times(x2, c), WIDE.times(x1, s))
    y = _concat([y1, y2, rest], axis=-1).map(lambda a: a[..., np.argsort(order)])
    return rounded(y, x.dtype)


def _concat(balls, axis):
    return Ball(*[np.concatenate(parts, axis=axis) for parts in zip(*balls, strict=True)])


def attend_rows(q, keys, values, starts, *, island=WIDE.dtype, sinks=None, **options):
    """Heads (B, H, T, Dv) of q (B, H, T, D); keys and values are a list of balls, one for each row, of all it sees."""
    found = []
    for row, (k, v, start) in enumerate(zip(keys, values, starts, strict=True)):
        own = q.ball.map(lambda a, row=row: a[row : row + 1])
        given = {"start": int(start), "island": island, **options}
        found.append(attend_balls(own, k, v, None, sinks, given))
    return rounded(_concat(found, axis=0), q.dtype)


def attention(q, keys, values, starts, **options):
    """Heads (B, H, T, Dv), and what is written of keys and of values: pairs of a whole cache and of what comes anew."""
    read, written = [], []
    for cache, new in (keys, values):
        stored = rounded(new.ball, cache.dtype)
        written.append(stored)
        rows = []
        for row, start in enumerate(starts):
            own = stored.ball.map(lambda a, row=row: a[row : row + 1])
            rows.append(_concat([exact(cache[row : row + 1, :, :start]), own], axis=2))
        read.append(rows)
    return attend_rows(q, *read, starts, **options), written


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


def attention_half(
    x, norm, *linears, norms=(None, None), cos, sin, keys, values, starts, pairs="halves", **options
):
    """What `norm_attention_residual` gives, and pairs of what it writes, of keys and of values."""
    weights, biases = linears[:4], linears[4:]
    n = rms_norm(x, norm, EPS)
    widths = keys.shape[3], keys.shape[3], values.shape[3]
    q, k, v = (
        heads(linear(n, w, b), width)
        for w, b, width in zip(weights[:3], biases[:3], widths, strict=True)
    )
    q, k = (
        a if own is None else rms_norm(a, own, EPS) for a, own in zip((q, k), norms, strict=True)
    )
    if cos is not None:
        q, k = rope(q, cos, sin, pairs), rope(k, cos, sin, pairs)
    y, written = attention(q, (keys, k), (values, v), starts, **options)
    return plus(x, linear(joined(y), weights[3], biases[3])), written


def mlp_half(x, residual, norm, *linears):
    """What `norm_mlp_residual` gives."""
    weights, biases = linears[:3], linears[3:]
    n = rms_norm(x, norm, EPS)
    gate, up = (linear(n, w, b) for w, b in zip(weights[:2], biases[:2], strict=True))
    return plus(residual, linear(swiglu(gate, up), weights[2], biases[2]))


def assert_written(cache, before, written, starts):
    """A cache (keys, values) holds in each row's slots from its start on what was written, all others as before."""
    for array, old, new in zip(cache, before, written, strict=True):
        T = new.ball.mid.shape[2]
        found, expected = array.copy(order="K"), old.copy(order="K")
        rows = [found[b : b + 1, :, start : start + T] for b, start in enumerate(starts)]
        assert_within(np.concatenate(rows), new)
        for b, start in enumerate(starts):
            found[b, :, start : start + T] = expected[b, :, start : start + T] = 0
        np.testing.assert_array_equal(found, expected)


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


def make_rows(starts):
    """Rows that begin in these slots."""
    return Rows(np.array(starts, np.int64), tuple(starts))


def make_cache(keys, values):
    """A copy of what a cache holds, laid out alike, to be written to."""
    return cache_of(keys.copy(order="K"), values.copy(order="K"))


def cache_of(keys, values):
    """A cache of these very arrays."""

    def extend(k, v, rows):
        for b, begin in enumerate(rows.begins):
            slots = slice(begin, begin + k.shape[2])
            keys[b, :, slots], values[b, :, slots] = k[b], v[b]
        return KeyView(keys, values, rows)

    return LayerCache(keys, values, extend)

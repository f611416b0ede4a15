"""The ops of a decoder block in balls that are handed from op to op: what a fusion may be off by."""

from typing import NamedTuple

import numpy as np

from xplm.kernels.parts.norms import LAYER, RMS
from xplm.numerics.parity.attention_bounds import attend_balls
from xplm.numerics.parity.bounds import Arithmetic, Ball, exact, may_round
from xplm.numerics.parity.op_bounds import gelu, gelu_erf
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


def normed(x, norm, kind=RMS):
    """The norm of x (..., W), or x where it is left out; norm (W,) or (H, W), of a layer norm weight and bias of it."""
    if norm is None:
        return x
    weight, bias = norm if kind == LAYER else (norm, 0.0 * norm)
    given = x.ball if kind != LAYER else WIDE.minus(x.ball, WIDE.mean(x.ball))
    mean_square = WIDE.mean(WIDE.times(given, given))
    rstd = WIDE.over(WIDE.scalar(1.0), WIDE.root(WIDE.plus(mean_square, WIDE.scalar(EPS))))
    n = WIDE.times(given, rstd)
    if kind == RMS:
        return rounded(
            WIDE.times(may_round(n, x.dtype), may_round(exact(weight), x.dtype)), x.dtype
        )
    return rounded(WIDE.plus(WIDE.times(n, exact(weight)), exact(bias)), x.dtype)


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


def activated(up, activation):
    """The activation of an MLP without a gate, or of its gate."""
    positive = Ball(np.maximum(up.ball.mid, 0.0), up.ball.rad)  # whose slope is at most 1
    found = {
        "gelu": lambda: gelu(WIDE, up.ball),
        "gelu_erf": lambda: gelu_erf(WIDE, up.ball),
        "relu": lambda: positive,
        "relu2": lambda: WIDE.times(positive, positive),
    }
    return rounded(found[activation](), up.dtype)


def gated(gate, up, activation):
    """act(gate) * up."""
    if activation == "silu":
        return swiglu(gate, up)
    return rounded(WIDE.times(activated(gate, activation).ball, up.ball), up.dtype)


def add_branch(residual, branch, norm, kind, scale):
    """residual + scale norm(branch)."""
    branch = normed(branch, norm, kind)
    if scale != 1.0:
        branch = rounded(WIDE.times(branch.ball, WIDE.scalar(scale)), branch.dtype)
    return plus(residual, branch)


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
    x, norm, *linears, norms=(None, None), cos, sin, keys, values, starts, pairs="halves", output_norm=None,
    norm_kind=RMS, branch_scale=1.0, **options,
):  # fmt: skip
    """What `norm_attention_residual` gives, and pairs of what it writes, of keys and of values."""
    weights, biases = linears[:4], linears[4:]
    n = normed(x, norm, norm_kind)
    q, k, v = (linear(n, w, b) for w, b in zip(weights[:3], biases[:3], strict=True))
    q, k = (by_heads(a, own, norm_kind) for a, own in zip((q, k), norms, strict=True))
    q, k, v = heads(q, keys.shape[3]), heads(k, keys.shape[3]), heads(v, values.shape[3])
    if cos is not None:
        q, k = rope(q, cos, sin, pairs), rope(k, cos, sin, pairs)
    y, written = attention(q, (keys, k), (values, v), starts, **options)
    branch = linear(joined(y), weights[3], biases[3])
    return add_branch(x, branch, output_norm, norm_kind, branch_scale), written


def by_heads(x, norm, kind):
    """x (B, T, N D), its norm taken over as many numbers as that has weights in a row."""
    if norm is None:
        return x
    rows = x._replace(ball=x.ball.map(lambda a: a.reshape(*a.shape[:2], -1, norm.shape[-1])))
    whole = x.ball.mid.shape
    return x._replace(ball=normed(rows, norm, kind).ball.map(lambda a: a.reshape(whole)))


def mlp_half(
    x, residual, norm, *linears, output_norm=None, norm_kind=RMS, branch_scale=1.0, activation="silu"
):  # fmt: skip
    """What `norm_mlp_residual` gives."""
    weights, biases = linears[:3], linears[3:]
    n = normed(x, norm, norm_kind)
    up = linear(n, weights[1], biases[1])
    if weights[0] is None:
        hidden = activated(up, activation)
    else:
        hidden = gated(linear(n, weights[0], biases[0]), up, activation)
    branch = linear(hidden, weights[2], biases[2])
    return add_branch(residual, branch, output_norm, norm_kind, branch_scale)


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


def draw_norm(rng, dtype, kind, *shape):
    """A norm of a kind: its weight, which is float32 where an offset is added to it, or weight and bias stacked."""
    return draw(rng, dtype if kind == RMS else "float32", *(2,) * (kind == LAYER), *shape)


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

"""Causal grouped-query attention over a cache of keys and values.

    scores = (q @ k^T) * scale                     q head h reads key/value head h // G, G = H / K
    y      = softmax(scores over visible keys) @ v

The query in row t sits in slot start + t and sees the keys in slots

    max(first[t], start + t - window + 1)  ..  start + t

`first` is what padding needs (sequences of unequal length begin in different slots), `window` is Mistral's sliding
window. A query that sees nothing, as in padding, gives a row of zeros.

Sources: Vaswani et al., "Attention Is All You Need", arXiv:1706.03762, eq. 1; Ainslie et al., "GQA", arXiv:2305.13245;
Jiang et al., "Mistral 7B", arXiv:2310.06825, section 2. Rows of queries are taken a chunk at a time against just the
keys that the chunk can see, and the log-sum-exp of each row is what is kept of the scores: Dao et al.,
"FlashAttention", arXiv:2205.14135, section 3.1.

Numerics. Both products accumulate in float32 or wider; softmax runs in the island dtype `wide`; y is rounded once.
"""

from typing import NamedTuple

from array_api_compat import device

from xplm.kernels.softmax import softmax_fwd
from xplm.namespace import array_namespace
from xplm.precision import cast, wide_dtype
from xplm.typing import Array, DType, Namespace

QUERY_ROWS = 128
"""Queries a chunk: scores of 128 x S numbers a head are what is held at a time."""


class AttentionSaved(NamedTuple):
    q: Array  # (B, H, T, D)
    k: Array  # (B, K, S, D)
    v: Array  # (B, K, S, D)
    first: Array | None  # (B, T), integer
    y: Array  # (B, H, T, D)
    lse: Array  # (B, H, T), wide; -inf where a query sees nothing
    start: int  # slot of the first query
    scale: float
    window: int | None  # keys


def attention_fwd(
    q: Array,
    k: Array,
    v: Array,
    first: Array | None = None,
    *,
    start: int,
    scale: float,
    window: int | None = None,
    wide: DType | None = None,
    query_rows: int = QUERY_ROWS,
) -> tuple[Array, AttentionSaved]:
    """y = softmax(scale q k^T) v over visible keys.   q (B, H, T, D); k, v (B, K, S, D); first (B, T)  ->  y like q"""
    xp = array_namespace(q)
    T = q.shape[2]

    chunks = []
    for begin in range(0, T, query_rows):
        end = min(begin + query_rows, T)
        low = 0 if window is None else max(0, start + begin - window + 1)
        high = start + end  # slots low..high are all that any query of the chunk can see

        visible = _visible_keys(xp, device(q), first, begin, end, start, low, window)
        chunks.append(
            _attend(
                xp,
                q[:, :, begin:end, :],
                k[:, :, low:high, :],
                v[:, :, low:high, :],
                visible,
                scale,
                wide,
            )
        )

    y, lse = chunks[0]
    if len(chunks) > 1:
        y, lse = (xp.concat(parts, axis=2) for parts in zip(*chunks, strict=True))
    return y, AttentionSaved(q, k, v, first, y, lse, start, scale, window)


def _attend(
    xp: Namespace,
    q: Array,
    k: Array,
    v: Array,
    visible: Array | None,
    scale: float,
    wide: DType | None,
) -> tuple[Array, Array]:
    """One chunk: q (B, H, t, D) against k, v (B, K, s, D)  ->  y (B, H, t, D), lse (B, H, t)."""
    sums = wide_dtype(q, xp)
    B, H, t, D = q.shape
    K = k.shape[1]
    G = H // K

    # Each key/value head is broadcast over the G query heads that read it, not copied.
    qw = xp.reshape(cast(q, sums) * scale, (B, K, G, t, D))
    kw = cast(k, sums)[:, :, None, :, :]  # (B, K, 1, s, D)
    vw = cast(v, sums)[:, :, None, :, :]

    scores = qw @ xp.matrix_transpose(kw)  # (B, K, G, t, s)
    probs, saved = softmax_fwd(scores, visible, wide=wide)
    y = probs @ vw  # (B, K, G, t, D)

    y = xp.reshape(cast(y, q.dtype), (B, H, t, D))
    return y, xp.reshape(saved.lse, (B, H, t))


def _visible_keys(
    xp: Namespace,
    where: object,
    first: Array | None,
    begin: int,
    end: int,
    start: int,
    low: int,
    window: int | None,
) -> Array | None:
    """Which slots low .. start + end each query begin .. end sees: (b, 1, 1, t, s) bool, or None if all see all."""
    if end - begin == 1 and first is None:
        return None

    key = xp.arange(low, start + end, device=where)[None, :]
    query = xp.arange(start + begin, start + end, device=where)[:, None]
    visible = key <= query
    if window is not None:
        visible = visible & (key > query - window)

    visible = visible[None, None, None, :, :]
    if first is not None:
        visible = visible & (key >= first[:, None, None, begin:end, None])
    return visible

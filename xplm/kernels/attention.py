"""Causal grouped-query attention.

    scores = (q @ k^T) * scale                     q head h reads key/value head h // G, G = H / K
    y      = softmax(scores over visible keys) @ v

The query in row t sits in slot start + t and sees the keys in slots

    max(first[t], start + t - window + 1)  ..  start + t

`first` is the slot of a row's first key, where rows gathered from a cache begin in different slots; `window` is a
sliding window. A query that sees nothing gives a row of zeros.

Gradient. With P = softmax(S), S = scale q k^T, each row of P from its saved log-sum-exp, P = exp(S - lse):

    dv = P^T dy
    dP = dy v^T
    dS = P * (dP - delta)          delta_t = sum_s P_ts dP_ts = dy_t . y_t, so it needs no P
    dq = scale dS k
    dk = scale dS^T q

dk and dv sum over the G query heads that read the same key/value head, and over the chunks. A query that sees nothing
has P = 0 and gives no gradient.

Sources: Vaswani et al., "Attention Is All You Need", arXiv:1706.03762, eq. 1; Ainslie et al., "GQA", arXiv:2305.13245;
Jiang et al., "Mistral 7B", arXiv:2310.06825, section 2. Rows of queries are taken a chunk at a time against just the
keys that the chunk can see, and the log-sum-exp of each row is what is kept of the scores: Dao et al.,
"FlashAttention", arXiv:2205.14135, section 3.1.

Numerics. Both products accumulate in float32 or wider; softmax runs in the dtype `island`; y is rounded once.
The log-sum-exp is kept in float32 at least (`xplm.kernels.softmax`), so that the backward pass has the forward's P.
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
    v: Array  # (B, K, S, Dv)
    first: Array | None  # (B, T), integer
    y: Array  # (B, H, T, Dv)
    lse: Array  # (B, H, T), float32 or wider; -inf where a query sees nothing
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
    island: DType | None = None,
    query_rows: int = QUERY_ROWS,
) -> tuple[Array, AttentionSaved]:
    """y = softmax(scale q k^T) v over visible keys.   q (B, H, T, D); k (B, K, S, D); v (B, K, S, Dv); first (B, T)
    ->  y (B, H, T, Dv) q.dtype
    """
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
                island,
            )
        )

    y, lse = chunks[0]
    if len(chunks) > 1:
        y, lse = (xp.concat(parts, axis=2) for parts in zip(*chunks, strict=True))
    return y, AttentionSaved(q, k, v, first, y, lse, start, scale, window)


def attention_bwd(
    dy: Array, saved: AttentionSaved, *, query_rows: int = QUERY_ROWS
) -> tuple[Array, Array, Array, None]:
    """dq (B, H, T, D); dk (B, K, S, D); dv (B, K, S, Dv), each in its own array's dtype, from dy (B, H, T, Dv)."""
    q, k, v, first, y, lse, start, scale, window = saved
    xp = array_namespace(dy)
    T, S = q.shape[2], k.shape[2]

    dq: list[Array] = []
    dk = dv = None
    for begin in range(0, T, query_rows):
        end = min(begin + query_rows, T)
        low = 0 if window is None else max(0, start + begin - window + 1)
        high = start + end
        rows = (slice(None), slice(None), slice(begin, end), ...)
        keys = (slice(None), slice(None), slice(low, high), ...)

        visible = _visible_keys(xp, device(q), first, begin, end, start, low, window)
        dq_rows, dk_part, dv_part = _attend_back(
            dy[rows], q[rows], k[keys], v[keys], y[rows], lse[rows], visible, scale
        )
        dq.append(dq_rows)
        dk_part, dv_part = _place(dk_part, low, S), _place(dv_part, low, S)
        dk = dk_part if dk is None else dk + dk_part
        dv = dv_part if dv is None else dv + dv_part

    assert dk is not None, "there is a query at least"
    assert dv is not None
    return cast(xp.concat(dq, axis=2), q.dtype), cast(dk, k.dtype), cast(dv, v.dtype), None


def _attend(
    xp: Namespace,
    q: Array,
    k: Array,
    v: Array,
    visible: Array | None,
    scale: float,
    island: DType | None,
) -> tuple[Array, Array]:
    """One chunk: q (B, H, t, D) against k, v (B, K, s, D or Dv)  ->  y (B, H, t, Dv), lse (B, H, t)."""
    sums = wide_dtype(q, xp)
    B, H, t, D = q.shape
    K = k.shape[1]
    G = H // K

    # Each key/value head is broadcast over the G query heads that read it, not copied.
    qw = xp.reshape(cast(q, sums) * scale, (B, K, G, t, D))
    kw = cast(k, sums)[:, :, None, :, :]  # (B, K, 1, s, D)
    vw = cast(v, sums)[:, :, None, :, :]

    scores = qw @ xp.matrix_transpose(kw)  # (B, K, G, t, s)
    probs, saved = softmax_fwd(scores, visible, island=island)
    y = probs @ vw  # (B, K, G, t, Dv)

    y = xp.reshape(cast(y, q.dtype), (B, H, t, v.shape[3]))
    return y, xp.reshape(saved.lse, (B, H, t))


def _attend_back(
    dy: Array,
    q: Array,
    k: Array,
    v: Array,
    y: Array,
    lse: Array,
    visible: Array | None,
    scale: float,
) -> tuple[Array, Array, Array]:
    """One chunk: dq (B, H, t, D) and dk, dv (B, K, s, D or Dv), wide. Letters as in `_attend`."""
    xp = array_namespace(q)
    wide = wide_dtype(q, xp)
    B, H, t, D = q.shape
    K = k.shape[1]
    groups = (B, K, H // K, t)

    qw, dyw, yw = (xp.reshape(cast(a, wide), (*groups, a.shape[3])) for a in (q, dy, y))
    kw, vw = (cast(a, wide)[:, :, None, :, :] for a in (k, v))  # (B, K, 1, s, D)

    # P = exp(scale q k^T - lse)
    exponent = scale * (qw @ xp.matrix_transpose(kw)) - xp.reshape(cast(lse, wide), (*groups, 1))
    if visible is not None:
        exponent = xp.where(visible, exponent, xp.full_like(exponent, -float("inf")))
    P = xp.exp(exponent)  # (B, K, G, t, s)

    # y = P v
    dv = xp.sum(xp.matrix_transpose(P) @ dyw, axis=2)
    dP = dyw @ xp.matrix_transpose(vw)

    # P = softmax(S),  S = scale q k^T
    delta = xp.sum(dyw * yw, axis=-1, keepdims=True)
    dS = P * (dP - delta) * scale
    dq = xp.reshape(dS @ kw, (B, H, t, D))
    dk = xp.sum(xp.matrix_transpose(dS) @ qw, axis=2)
    return dq, dk, dv


def _place(part: Array, low: int, S: int) -> Array:
    """Rows of S slots that are zero but for `part` (B, K, s, D) from slot `low` on."""
    xp = array_namespace(part)
    B, K, s, D = part.shape

    def zeros(slots: int) -> Array:
        return xp.zeros((B, K, slots, D), dtype=part.dtype, device=device(part))

    if s == S:
        return part
    return xp.concat([zeros(low), part, zeros(S - low - s)], axis=2)


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

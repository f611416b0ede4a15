"""Causal grouped-query attention.

    scores = (q @ k^T) * scale                     q head h reads key/value head h // G, G = H / K
    scores = cap tanh(scores / cap)                where there is a cap: all stay between -cap and cap
    y      = softmax(scores over visible keys, sink) @ (v, 0)

The query in row t sits in slot start + t and sees the keys in slots

    max(first[t], start + t - window + 1)  ..  start + t

`first` is the slot of a row's first key, where rows gathered from a cache begin in different slots; `window` is a
sliding window. A query that sees nothing gives a row of zeros. A sink is a logit for each head, seen by each of its
queries like a key whose value is zero: it joins the denominator, and takes weight from the keys. The mask comes after
the cap, for a hidden score that was capped would be -cap and not -inf.

Gradient. With P = softmax(S), S = cap tanh(X / cap), X = scale q k^T, each row of P from its saved log-sum-exp,
P = exp(S - lse):

    dv = P^T dy
    dP = dy v^T
    dS = P * (dP - delta)          delta_t = sum_s P_ts dP_ts = dy_t . y_t, so it needs no P
    dX = dS * (1 - (S / cap)^2)    for tanh' = 1 - tanh^2; without a cap dX = dS
    dq = scale dX k
    dk = scale dX^T q

dk and dv sum over the G query heads that read the same key/value head, and over the chunks. A query that sees nothing
has P = 0 and gives no gradient.

The sink of a head has the weight p_t = exp(sink - lse_t) of query t, and what it weighs is zero, so its own dP is 0. As
for every score, d sink = p (0 - delta), over all queries of the head:

    dsink = -sum_t p_t delta_t

delta has no term of the sink for the same reason, and dS stands as it is: lse holds the sink.

Sources: Vaswani et al., "Attention Is All You Need", arXiv:1706.03762, eq. 1; Ainslie et al., "GQA", arXiv:2305.13245;
Jiang et al., "Mistral 7B", arXiv:2310.06825, section 2; Gemma Team, "Gemma 2", arXiv:2408.00118, section 2, for the
cap; OpenAI, "gpt-oss model card", arXiv:2508.10925, section 2.3, for sinks. Rows of queries are taken a chunk at a time
against just the keys that the chunk can see, and the log-sum-exp of each row is what is kept of the scores: Dao et al.,
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
    sinks: Array | None  # (H,), any float
    y: Array  # (B, H, T, Dv)
    lse: Array  # (B, H, T), float32 or wider; -inf where a query sees nothing, not even a sink
    start: int  # slot of the first query
    scale: float
    window: int | None  # keys
    cap: float | None  # of the scaled scores


def attention_fwd(
    q: Array,
    k: Array,
    v: Array,
    first: Array | None = None,
    sinks: Array | None = None,
    *,
    start: int,
    scale: float,
    window: int | None = None,
    cap: float | None = None,
    island: DType | None = None,
    query_rows: int = QUERY_ROWS,
) -> tuple[Array, AttentionSaved]:
    """y = softmax(scale q k^T) v over visible keys.   q (B, H, T, D); k (B, K, S, D); v (B, K, S, Dv); first (B, T);
    sinks (H,)  ->  y (B, H, T, Dv) q.dtype
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
                sinks,
                scale,
                cap,
                island,
            )
        )

    y, lse = chunks[0]
    if len(chunks) > 1:
        y, lse = (xp.concat(parts, axis=2) for parts in zip(*chunks, strict=True))
    return y, AttentionSaved(q, k, v, first, sinks, y, lse, start, scale, window, cap)


def attention_bwd(
    dy: Array, saved: AttentionSaved, *, query_rows: int = QUERY_ROWS
) -> tuple[Array, Array, Array, None, Array | None]:
    """dq (B, H, T, D); dk (B, K, S, D); dv (B, K, S, Dv), each in its own array's dtype; dsinks (H,) wide, from dy
    (B, H, T, Dv).
    """
    q, k, v, first, sinks, y, lse, start, scale, window, cap = saved
    xp = array_namespace(dy)
    T, S = q.shape[2], k.shape[2]

    dq: list[Array] = []
    dk = dv = dsinks = None
    for begin in range(0, T, query_rows):
        end = min(begin + query_rows, T)
        low = 0 if window is None else max(0, start + begin - window + 1)
        high = start + end
        rows = (slice(None), slice(None), slice(begin, end), ...)
        keys = (slice(None), slice(None), slice(low, high), ...)

        visible = _visible_keys(xp, device(q), first, begin, end, start, low, window)
        delta = _row_products(dy[rows], y[rows])
        dq_rows, dk_part, dv_part = _attend_back(
            dy[rows], q[rows], k[keys], v[keys], lse[rows], delta, visible, scale, cap
        )
        dq.append(dq_rows)
        dk_part, dv_part = _place(dk_part, low, S), _place(dv_part, low, S)
        dk = dk_part if dk is None else dk + dk_part
        dv = dv_part if dv is None else dv + dv_part
        if sinks is not None:
            dsinks_part = sinks_bwd(sinks, lse[rows], delta)
            dsinks = dsinks_part if dsinks is None else dsinks + dsinks_part

    assert dk is not None, "there is a query at least"
    assert dv is not None
    return cast(xp.concat(dq, axis=2), q.dtype), cast(dk, k.dtype), cast(dv, v.dtype), None, dsinks


def _attend(
    xp: Namespace,
    q: Array,
    k: Array,
    v: Array,
    visible: Array | None,
    sinks: Array | None,
    scale: float,
    cap: float | None,
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
    if cap is not None:
        scores = cap * xp.tanh(scores / cap)
    if sinks is not None:
        scores, visible = _with_sinks(scores, visible, xp.reshape(cast(sinks, sums), (K, G, 1, 1)))
    probs, saved = softmax_fwd(scores, visible, island=island)
    probs = probs if sinks is None else probs[..., :-1]
    y = probs @ vw  # (B, K, G, t, Dv)

    y = xp.reshape(cast(y, q.dtype), (B, H, t, v.shape[3]))
    return y, xp.reshape(saved.lse, (B, H, t))


def _with_sinks(scores: Array, visible: Array | None, sinks: Array) -> tuple[Array, Array | None]:
    """Scores (B, K, G, t, s) and what is visible, each with one more key that all queries see."""
    xp = array_namespace(scores)
    column = xp.broadcast_to(sinks, (*scores.shape[:-1], 1))
    if visible is not None:
        seen = xp.ones((*visible.shape[:-1], 1), dtype=xp.bool, device=device(visible))
        visible = xp.concat([visible, seen], axis=-1)
    return xp.concat([scores, column], axis=-1), visible


def _attend_back(
    dy: Array,
    q: Array,
    k: Array,
    v: Array,
    lse: Array,
    row_products: Array,
    visible: Array | None,
    scale: float,
    cap: float | None,
) -> tuple[Array, Array, Array]:
    """One chunk: dq (B, H, t, D) and dk, dv (B, K, s, D or Dv), wide. Letters as in `_attend`."""
    xp = array_namespace(q)
    wide = wide_dtype(q, xp)
    B, H, t, D = q.shape
    K = k.shape[1]
    groups = (B, K, H // K, t)

    qw, dyw = (xp.reshape(cast(a, wide), (*groups, a.shape[3])) for a in (q, dy))
    kw, vw = (cast(a, wide)[:, :, None, :, :] for a in (k, v))  # (B, K, 1, s, D)

    # P = exp(S - lse),  S = cap tanh(scale q k^T / cap)
    scores = scale * (qw @ xp.matrix_transpose(kw))
    if cap is not None:
        ratio = xp.tanh(scores / cap)  # S / cap
        scores = cap * ratio
    exponent = scores - xp.reshape(cast(lse, wide), (*groups, 1))
    if visible is not None:
        exponent = xp.where(visible, exponent, xp.full_like(exponent, -float("inf")))
    P = xp.exp(exponent)  # (B, K, G, t, s)

    # y = P v
    dv = xp.sum(xp.matrix_transpose(P) @ dyw, axis=2)
    dP = dyw @ xp.matrix_transpose(vw)

    # P = softmax(S),  S = cap tanh(scale q k^T / cap)
    delta = xp.reshape(row_products, (*groups, 1))
    dS = P * (dP - delta) * scale
    if cap is not None:
        dS = dS * (1.0 - ratio * ratio)
    dq = xp.reshape(dS @ kw, (B, H, t, D))
    dk = xp.sum(xp.matrix_transpose(dS) @ qw, axis=2)
    return dq, dk, dv


def _row_products(dy: Array, y: Array) -> Array:
    """delta (B, H, t), wide: dy . y of each query."""
    xp = array_namespace(dy)
    wide = wide_dtype(dy, xp)
    return xp.sum(cast(dy, wide) * cast(y, wide), axis=-1)


def sinks_bwd(sinks: Array, lse: Array, delta: Array) -> Array:
    """dsinks (H,), wide, of some queries: sinks (H,), lse and delta (B, H, t)."""
    xp = array_namespace(lse)
    p = xp.exp(cast(sinks, delta.dtype)[:, None] - cast(lse, delta.dtype))  # (B, H, t)
    return -xp.sum(p * delta, axis=(0, 2))


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

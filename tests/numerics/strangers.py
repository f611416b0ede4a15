"""Wrong files that the mistakes in `xplm.numerics.mistakes` were not written against: other hands, other ways to write.

Most are named; of the last ones in the table it is said where to look. None may become a reason for an entry there:
that a layer has the mistakes of its parts, or that any step may be off by a factor, is what such files may teach.
"""

RMS_POWER = """
import numpy as np
def forward(x, weight, eps):
    ms = np.einsum("...c,...c->...", x, x)[..., None] / x.shape[-1]
    inv = (ms + eps) ** -0.5
    return weight * (x * inv), x, weight, inv
def backward(g, x, weight, inv):
    rows_x, rows_g = x.reshape(-1, x.shape[-1]), g.reshape(-1, x.shape[-1])
    rows_i = inv.reshape(-1, 1)
    out = np.empty_like(rows_x)
    gw = np.zeros_like(weight)
    for n in range(len(rows_x)):
        h = rows_g[n] * weight
        gw += rows_g[n] * rows_x[n] * rows_i[n]
        out[n] = rows_i[n] * h - rows_i[n] * rows_x[n] * np.dot(h, rows_x[n]) / len(weight)
    return out.reshape(x.shape), gw
"""  # rstd where its cube belongs

LAYER_NORM_UNSCALED = """
import numpy as np
def forward(inp, gain, shift, eps=1e-5):
    centred = inp - np.average(inp, axis=-1)[..., None]
    sd = np.sqrt(np.average(centred * centred, axis=-1)[..., None] + eps)
    return gain * centred / sd + shift, (centred / sd, sd, gain)
def backward(up, memo):
    z, sd, gain = memo
    n = z.shape[-1]
    first = tuple(range(z.ndim - 1))
    d = up * gain
    total, dot = d.sum(-1, keepdims=True), (d * z).sum(-1, keepdims=True)
    return (n * d - total - z * dot) / sd, np.sum(up * z, first), np.sum(up, first)
"""  # the compact formula without its 1/C

LAYER_NORM_NO_GAIN = """
import numpy as np
def forward(x, scale, offset, eps):
    m = np.mean(x, -1, keepdims=True)
    s = 1 / np.sqrt(np.mean(np.square(x - m), -1, keepdims=True) + eps)
    return (x - m) * s * scale + offset
def backward(dy, x, scale, offset, eps):
    m = np.mean(x, -1, keepdims=True)
    s = 1 / np.sqrt(np.mean(np.square(x - m), -1, keepdims=True) + eps)
    n = (x - m) * s
    keep = tuple(range(x.ndim - 1))
    dx = s * (dy - dy.mean(-1, keepdims=True) - n * (dy * n).mean(-1, keepdims=True))
    return dx, (dy * n).sum(keep), dy.sum(keep)
"""  # dy where dy * scale belongs

SELF_ATTENTION_V = """
import numpy as np
def forward(x, wq, wk, wv):
    ys, memo = [], []
    for s in x:
        q, k, v = s @ wq, s @ wk, s @ wv
        w = q @ k.T * q.shape[1] ** -0.5
        w[np.triu_indices(len(s), 1)] = -np.inf
        w = np.exp(w - w.max(1)[:, None])
        w = w / w.sum(1)[:, None]
        ys.append(w @ v)
        memo.append((q, k, v, w))
    return np.stack(ys), (x, wq, wk, wv, memo)
def backward(g, saved):
    x, wq, wk, wv, memo = saved
    gx, gq, gk, gv = (np.zeros_like(a) for a in (x, wq, wk, wv))
    for i, (q, k, v, w) in enumerate(memo):
        dw = g[i] @ v.T
        dz = w * (dw - np.einsum("ts,ts->t", dw, w)[:, None]) * q.shape[1] ** -0.5
        dq, dk, dv = dz @ k, dz.T @ q, w @ g[i]
        gx[i] = dq @ wq.T + dk @ wk.T + dv @ wv.T
        gq += x[i].T @ dq
        gk += x[i].T @ dk
        gv += x[i].T @ dv
    return gx, gq, gk, gv
"""  # the weights are not transposed on the way to dV

ATTENTION_GROUP = """
import numpy as np
def forward(Q, K, V, scale, window=None):
    B, Hq, T, D = Q.shape
    Hk, S = K.shape[1], K.shape[2]
    Y, P = np.zeros_like(Q), np.zeros((B, Hq, T, S))
    for h in range(Hq):
        j = h * Hk // Hq
        for t in range(T):
            low = 0 if window is None else max(0, t - window + 1)
            z = (K[:, j, low:t + 1] @ Q[:, h, t, :, None])[..., 0] * scale
            e = np.exp(z - z.max(1, keepdims=True))
            P[:, h, t, low:t + 1] = e / e.sum(1, keepdims=True)
        Y[:, h] = P[:, h] @ V[:, j]
    return Y, (Q, K, V, P, scale)
def backward(dY, tape):
    Q, K, V, P, scale = tape
    Hq, Hk = Q.shape[1], K.shape[1]
    dQ, dK, dV = np.zeros_like(Q), np.zeros_like(K), np.zeros_like(V)
    for h in range(Hq):
        j = h * Hk // Hq
        dP = dY[:, h] @ V[:, j].swapaxes(1, 2)
        dZ = P[:, h] * (dP - (dP * P[:, h]).sum(2, keepdims=True)) * scale
        dQ[:, h] = dZ @ K[:, j]
        dK[:, j] = dZ.swapaxes(1, 2) @ Q[:, h]
        dV[:, j] = P[:, h].swapaxes(1, 2) @ dY[:, h]
    return dQ, dK, dV
"""  # = where += belongs: of the heads that share a key, the last counts

ATTENTION_AXIS = """
import numpy as np
def forward(q, k, v, scale, window=None):
    rep = q.shape[1] // k.shape[1]
    kk, vv = k.repeat(rep, axis=1), v.repeat(rep, axis=1)
    T, S = q.shape[2], k.shape[2]
    ahead = np.subtract.outer(np.arange(T), np.arange(S))
    ok = (ahead >= 0) & (ahead < (window or T))
    z = np.where(ok, q @ kk.transpose(0, 1, 3, 2) * scale, -1e30)
    a = np.exp(z - z.max(-1)[..., None])
    a = a / a.sum(-1)[..., None]
    return a @ vv, dict(q=q, kk=kk, vv=vv, a=a, rep=rep, scale=scale)
def backward(g, m):
    da = g @ m["vv"].transpose(0, 1, 3, 2)
    dz = m["a"] * (da - (da * m["a"]).sum(-2, keepdims=True)) * m["scale"]
    dq = dz @ m["kk"]
    dkk = dz.transpose(0, 1, 3, 2) @ m["q"]
    dvv = m["a"].transpose(0, 1, 3, 2) @ g
    b, h, s, d = dkk.shape
    return dq, dkk.reshape(b, -1, m["rep"], s, d).sum(2), dvv.reshape(b, -1, m["rep"], s, d).sum(2)
"""  # softmax's sum runs over the queries

LINEAR_LAST = """
import numpy as np
def forward(inputs, kernel, bias):
    return np.tensordot(inputs, kernel, 1) + bias
def backward(err, inputs, kernel, bias):
    n_in, n_out = kernel.shape
    a, e = inputs.reshape(-1, n_in), err.reshape(-1, n_out)
    d_kernel, d_bias = np.zeros_like(kernel), np.zeros_like(bias)
    for row in range(len(a)):
        d_kernel = np.outer(a[row], e[row])
        d_bias = d_bias + e[row]
    return np.tensordot(err, kernel.T, 1), d_kernel, d_bias
"""  # the last row's gradient instead of the sum over rows

SOFTMAX_PLUS = """
import numpy as np
def forward(scores):
    z = np.exp(scores - scores.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)
def backward(upstream, scores):
    probs = forward(scores)
    jac = np.einsum("...i,ij->...ij", probs, np.eye(probs.shape[-1]))
    jac = jac + np.einsum("...i,...j->...ij", probs, probs)
    return np.einsum("...i,...ij->...j", upstream, jac)
"""  # diag(p) + p p^T

LOSS_LOG_PROBS = """
import numpy as np
from math import log
def forward(logits, targets, ignore_index=-100):
    logp, total, n = np.empty_like(logits), 0.0, 0
    for i, row in enumerate(logits):
        top = row.max()
        logp[i] = row - top - log(sum(np.exp(row - top)))
        if targets[i] != ignore_index:
            total -= logp[i, targets[i]]
            n += 1
    return total / n, (logp, targets, ignore_index, n)
def backward(d_loss, memory):
    logp, targets, ignore_index, n = memory
    grad = logp.copy()
    for i, t in enumerate(targets):
        if t == ignore_index:
            grad[i] = 0
        else:
            grad[i, t] -= 1
    return grad * d_loss / n
"""  # log-probabilities where probabilities belong

ROPE_PAIRS = """
import numpy as np
def forward(x, cos, sin):
    lo, hi = np.split(x, 2, axis=-1)
    return np.concatenate((lo * cos - hi * sin, lo * sin + hi * cos), axis=-1)
def backward(dy, x, cos, sin):
    dx = np.empty_like(dy)
    a, b = dy[..., 0::2], dy[..., 1::2]
    dx[..., 0::2] = a * cos + b * sin
    dx[..., 1::2] = b * cos - a * sin
    return dx
"""  # neighbours are paired on the way back, halves on the way there

SWIGLU_ROLES = """
import numpy as np
def forward(gate, up):
    return gate * (up / (1 + np.exp(-up)))
def backward(dy, gate, up):
    s = 1 / (1 + np.exp(-up))
    return dy * up * s, dy * gate * s * (1 + up * (1 - s))
"""  # silu of the wrong input, in the forward and so in the backward

GELU_ERF = """
import numpy as np
from math import erf, pi
def forward(x):
    return x / (1 + np.exp(-2 * (2 / pi) ** 0.5 * (x + 0.044715 * x ** 3)))
def backward(dy, x):
    cdf = 0.5 * (1 + np.vectorize(erf)(x / 2 ** 0.5))
    pdf = np.exp(-0.5 * x ** 2) / (2 * pi) ** 0.5
    return dy * (cdf + x * pdf)
"""  # the exact GELU's derivative of the tanh GELU

EMBEDDING_MEAN = """
import numpy as np
def forward(tokens, matrix):
    return np.take(matrix, tokens, axis=0)
def backward(dy, tokens, matrix):
    flat, rows = tokens.ravel(), dy.reshape(-1, matrix.shape[1])
    out = np.zeros_like(matrix)
    for v in set(flat.tolist()):
        out[v] = rows[flat == v].mean(axis=0)
    return None, out
"""  # a mean over a token's occurrences

DROPOUT_TWICE = """
def forward(x, mask, rate):
    keep_prob = 1.0 - rate
    return (x / keep_prob) * mask, (mask / keep_prob, keep_prob)
def backward(dy, ctx):
    scaled, keep_prob = ctx
    return dy * scaled / keep_prob
"""  # scaled twice

RESIDUAL_INSIDE = """
import numpy as np
def forward(x, gamma, W, eps):
    inv = (np.square(x).mean(-1, keepdims=True) + eps) ** -0.5
    return x + np.einsum("...c,oc->...o", x * inv * gamma, W), (x, gamma, W, inv)
def backward(dout, cache):
    x, gamma, W, inv = cache
    dh = np.einsum("...o,oc->...c", dout, W)
    axes = tuple(range(x.ndim - 1))
    dW = np.tensordot(dout, x * inv * gamma, (axes, axes))
    dgamma = (dh * x * inv).sum(axes)
    dn = dh * gamma + dout
    dx = inv * dn - x * inv ** 3 * (dn * x).mean(-1, keepdims=True)
    return dx, dgamma, dW
"""  # the residual's gradient goes through the norm

TIED_REPEATS = """
import numpy as np
def forward(ids, E, targets, ignore_index):
    h = E[ids]
    scores = h @ E.T
    lse = np.logaddexp.reduce(scores, axis=1)
    valid = np.flatnonzero(targets != ignore_index)
    loss = np.mean(lse[valid] - scores[valid, targets[valid]])
    return loss, (ids, E, h, np.exp(scores - lse[:, None]), valid, targets)
def backward(d, saved):
    ids, E, h, p, valid, targets = saved
    ds = np.zeros_like(p)
    ds[valid] = p[valid]
    ds[valid, targets[valid]] -= 1
    ds *= d / len(valid)
    dE = ds.T @ h
    dE[ids] += ds @ E
    return dE
"""  # of a token that repeats, one occurrence counts

MLP_DOWN = """
import numpy as np
def forward(x, gate, up, down):
    a = np.tensordot(x, gate, (-1, 1))
    b = np.tensordot(x, up, (-1, 1))
    act = a / (1 + np.exp(-a))
    return np.tensordot(act * b, down, (-1, 1)), (x, gate, up, down, a, b, act)
def backward(g, ctx):
    x, gate, up, down, a, b, act = ctx
    sg = 1 / (1 + np.exp(-a))
    dm = g @ down
    da, db = dm * b * (sg + act * (1 - sg)), dm * act
    ax = tuple(range(x.ndim - 1))
    return (
        da @ gate + db @ up,
        np.tensordot(da, x, (ax, ax)),
        np.tensordot(db, x, (ax, ax)),
        np.tensordot(g, act, (ax, ax)),
    )
"""  # d down is made of silu(gate) alone, without up

HEAD_NO_TARGET = """
import numpy as np
def forward(hidden, head, labels, ignore_index):
    z = hidden @ head.T
    z = z - z.max(axis=1, keepdims=True)
    probs = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    scored = labels != ignore_index
    picked = probs[np.arange(len(labels)), labels * scored]
    return -np.log(picked) * scored, (hidden, head, labels, probs, scored)
def backward(dl, ctx):
    hidden, head, labels, probs, scored = ctx
    one_hot = np.eye(head.shape[0])[labels * scored]
    weight = (dl * scored)[:, None]
    d_hidden = ((probs - one_hot) * weight) @ head
    d_head = (probs * weight).T @ hidden
    return d_hidden, d_head
"""  # the target is subtracted for one gradient, and forgotten for the other

# name: (op, text, what must be said of it)
STRANGERS = {
    "power of rstd": ("rms_norm", RMS_POWER, r"the path through rstd, .* lacks rstd\^2"),
    "no gain": ("layer_norm", LAYER_NORM_NO_GAIN, r"dx leaves the weight out"),
    "no transpose": ("self_attention", SELF_ATTENTION_V, r"dWv lacks a transpose"),
    "last of a group": ("attention", ATTENTION_GROUP, r"one query head of each group, the last"),
    "sum over queries": (
        "attention",
        ATTENTION_AXIS,
        r"wrong axis: the sum of dP \* P runs over axis -2",
    ),
    "last row": ("linear", LINEAR_LAST, r"takes the last row alone"),
    "diag plus outer": ("softmax", SOFTMAX_PLUS, r"the sum has the wrong sign"),
    "log-probabilities": ("mean_cross_entropy", LOSS_LOG_PROBS, r"log p where p belongs"),
    "pairs": ("rope", ROPE_PAIRS, r"dx pairs neighbours .* the forward pairs halves"),
    "roles": ("swiglu", SWIGLU_ROLES, r"gate and up are swapped"),
    "erf": ("gelu", GELU_ERF, r"derivative of the exact GELU \(erf\)"),
    "mean of repeats": ("embedding", EMBEDDING_MEAN, r"a repeated id are averaged"),
    "twice": ("dropout", DROPOUT_TWICE, r"1\.43 times too large = 1/0\.7: dx is scaled twice"),
    "repeats": ("tied_embedding", TIED_REPEATS, r"a repeated id keeps the last of its gradients"),
    "without up": (
        "mlp",
        MLP_DOWN,
        r"silu\(gate\) where the hidden row silu\(gate\) \* up belongs",
    ),
    "target forgotten once": ("linear_cross_entropy", HEAD_NO_TARGET, r"one-hot target is not"),
    # Not named; what is said does help to find it.
    "no 1/C": ("layer_norm", LAYER_NORM_UNSCALED, r"the factor 5, the length of the last axis of"),
    "residual inside": ("residual", RESIDUAL_INSIDE, r"dx is wrong in every case"),
}

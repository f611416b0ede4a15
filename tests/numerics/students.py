"""Files as somebody else would write them, one right one an op, in plain NumPy and in everybody's own conventions.

None shares a line with the library.
"""

RMS_NORM = """
import numpy as np

def forward(x, gamma, eps=1e-5):
    r = 1.0 / np.sqrt(np.mean(x ** 2, axis=-1, keepdims=True) + eps)
    xhat = x * r
    return gamma * xhat, (xhat, gamma, r)

def backward(dout, cache):
    xhat, gamma, r = cache
    C = xhat.shape[-1]
    dgamma = np.sum((dout * xhat).reshape(-1, C), axis=0)
    dxhat = dout * gamma
    dx = r * (dxhat - xhat * np.sum(dxhat * xhat, axis=-1, keepdims=True) / C)
    return dx, dgamma
"""

LAYER_NORM = """
import numpy as np

def forward(x, g, b, eps):
    mu = x.mean(-1, keepdims=True)
    var = x.var(-1, keepdims=True)
    std = np.sqrt(var + eps)
    xhat = (x - mu) / std
    return xhat * g + b, dict(x=x, mu=mu, std=std, xhat=xhat, g=g)

def backward(dy, c):
    D = c["x"].shape[-1]
    axes = tuple(range(dy.ndim - 1))
    db = dy.sum(axes)
    dg = (dy * c["xhat"]).sum(axes)
    dxhat = dy * c["g"]
    dvar = np.sum(dxhat * (c["x"] - c["mu"]) * -0.5 * c["std"] ** -3, -1, keepdims=True)
    dmu = np.sum(-dxhat / c["std"], -1, keepdims=True)
    dx = dxhat / c["std"] + dvar * 2 * (c["x"] - c["mu"]) / D + dmu / D
    return {"x": dx, "g": dg, "b": db}
"""

SELF_ATTENTION = """
import numpy as np

def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)

def forward(x, Wq, Wk, Wv):
    T, d = x.shape[1], Wq.shape[1]
    Q, K, V = x @ Wq, x @ Wk, x @ Wv
    scores = Q @ K.swapaxes(1, 2) / np.sqrt(d)
    scores = np.where(np.tril(np.ones((T, T))) == 1, scores, -1e9)
    A = softmax(scores)
    return A @ V, (x, Wq, Wk, Wv, Q, K, V, A)

def backward(dout, cache):
    x, Wq, Wk, Wv, Q, K, V, A = cache
    d = Wq.shape[1]
    dA = dout @ V.swapaxes(1, 2)
    dV = A.swapaxes(1, 2) @ dout
    dS = A * (dA - np.sum(dA * A, axis=-1, keepdims=True))
    dS = dS / np.sqrt(d)
    dQ = dS @ K
    dK = dS.swapaxes(1, 2) @ Q
    dWq = np.einsum("btc,btd->cd", x, dQ)
    dWk = np.einsum("btc,btd->cd", x, dK)
    dWv = np.einsum("btc,btd->cd", x, dV)
    dx = dQ @ Wq.T + dK @ Wk.T + dV @ Wv.T
    return dx, dWq, dWk, dWv
"""

ATTENTION = """
import numpy as np

def forward(q, k, v, scale, window=None):
    B, H, T, D = q.shape
    G = H // k.shape[1]
    kr, vr = np.repeat(k, G, 1), np.repeat(v, G, 1)
    s = np.einsum("bhtd,bhsd->bhts", q, kr) * scale
    t, j = np.arange(T)[:, None], np.arange(k.shape[2])[None, :]
    keep = j <= t
    if window is not None:
        keep &= t - j < window
    s = np.where(keep, s, -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return np.einsum("bhts,bhsd->bhtd", p, vr), (q, kr, vr, p, G, scale)

def backward(do, saved):
    q, kr, vr, p, G, scale = saved
    B, H, T, D = q.shape
    dvr = np.einsum("bhts,bhtd->bhsd", p, do)
    dp = np.einsum("bhtd,bhsd->bhts", do, vr)
    ds = p * (dp - (dp * p).sum(-1, keepdims=True)) * scale
    dq = np.einsum("bhts,bhsd->bhtd", ds, kr)
    dkr = np.einsum("bhts,bhtd->bhsd", ds, q)
    group = lambda a: a.reshape(B, H // G, G, *a.shape[2:]).sum(2)
    return dq, group(dkr), group(dvr)
"""

LINEAR = """
def forward(x, W, b):
    return x @ W + b

def backward(dy, x, W, b):
    flat_x, flat_dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    dW = flat_x.T @ flat_dy
    db = flat_dy.sum(axis=0)
    return dy @ W.T, dW, db
"""

SOFTMAX = """
import numpy as np

def forward(x):
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    return p, p

def backward(dp, p):
    return p * (dp - (dp * p).sum(axis=-1, keepdims=True))
"""

MEAN_CROSS_ENTROPY = """
import numpy as np

def forward(logits, targets, ignore_index):
    m = logits.max(1, keepdims=True)
    logp = logits - m - np.log(np.exp(logits - m).sum(1, keepdims=True))
    mask = targets != ignore_index
    rows = np.arange(len(targets))
    loss = -(logp[rows, np.where(mask, targets, 0)] * mask).sum() / mask.sum()
    return loss, (np.exp(logp), targets, mask)

def backward(cache):
    p, targets, mask = cache
    d = p.copy()
    d[np.arange(len(p)), np.where(mask, targets, 0)] -= 1
    d *= mask[:, None]
    return d / mask.sum()
"""

ROPE = """
import numpy as np

def rotate_half(x):
    h = x.shape[-1] // 2
    return np.concatenate([-x[..., h:], x[..., :h]], -1)

def forward(x, cos, sin):
    c, s = np.concatenate([cos, cos], -1), np.concatenate([sin, sin], -1)
    return x * c + rotate_half(x) * s

def backward(dy, x, cos, sin):
    c, s = np.concatenate([cos, cos], -1), np.concatenate([sin, sin], -1)
    return dy * c - rotate_half(dy) * s
"""

SWIGLU = """
import numpy as np

def sig(z):
    return 1 / (1 + np.exp(-z))

def forward(a, b):
    return a * sig(a) * b

def backward(dy, a, b):
    s = sig(a)
    da = dy * b * (s + a * s * (1 - s))
    db = dy * a * s
    return da, db
"""

GELU = """
import numpy as np

K = np.sqrt(2 / np.pi)

def forward(x):
    return 0.5 * x * (1 + np.tanh(K * (x + 0.044715 * x**3)))

def backward(dy, x):
    th = np.tanh(K * (x + 0.044715 * x**3))
    inner = K * (1 + 3 * 0.044715 * x**2)
    return dy * (0.5 * (1 + th) + 0.5 * x * (1 - th**2) * inner)
"""

GELU_ERF = """
import math
import numpy as np

erf = np.vectorize(math.erf, otypes=[float])

def forward(x):
    return x * 0.5 * (1 + erf(x / math.sqrt(2)))

def backward(dy, x):
    pdf = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return dy * (0.5 * (1 + erf(x / math.sqrt(2))) + x * pdf)
"""

RELU = """
import numpy as np

def forward(x):
    return np.where(x > 0, x, 0)

def backward(dy, x):
    return np.where(x > 0, dy, 0)
"""

RELU2 = """
import numpy as np

def forward(x):
    return np.maximum(x, 0) ** 2

def backward(dy, x):
    return dy * 2 * np.maximum(x, 0)
"""

EMBEDDING = """
import numpy as np

def forward(ids, table):
    return table[ids]

def backward(dy, ids, table):
    grad = np.zeros_like(table)
    np.add.at(grad, ids, dy)
    return None, grad
"""

DROPOUT = """
def forward(x, keep, rate):
    return x * keep / (1 - rate)

def backward(dy, x, keep, rate):
    return dy * keep / (1 - rate)
"""

RESIDUAL = """
import numpy as np

def forward(x, g, W, eps=1e-5):
    r = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    n = x * r
    h = n * g
    return x + h @ W.T, (x, g, W, r, n, h)

def backward(dy, saved):
    x, g, W, r, n, h = saved
    dh = dy @ W
    dn = dh * g
    C = x.shape[-1]
    dW = dy.reshape(-1, W.shape[0]).T @ h.reshape(-1, C)
    dx = r * (dn - n * (dn * n).mean(-1, keepdims=True))
    dx = dx + dy
    return dx, (dh * n).reshape(-1, C).sum(0), dW
"""

TIED_EMBEDDING = """
import numpy as np

def forward(ids, E, targets, ignore_index=-100):
    x = E[ids]
    z = x @ E.T
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    on = targets != ignore_index
    t = np.where(on, targets, 0)
    loss = -(np.log(p[np.arange(len(ids)), t]) * on).sum() / on.sum()
    return loss, (ids, E, x, p, t, on)

def backward(dloss, saved):
    ids, E, x, p, t, on = saved
    dz = p - np.eye(E.shape[0])[t]
    dz = dz * on[:, None] / on.sum() * dloss
    dE = dz.T @ x
    np.add.at(dE, ids, dz @ E)
    return dE
"""

MLP = """
import numpy as np

def forward(x, w1, w3, w2):
    g, u = x @ w1.T, x @ w3.T
    s = 1 / (1 + np.exp(-g))
    h = g * s * u
    return h @ w2.T, (x, w1, w3, w2, g, u, s, h)

def backward(dy, saved):
    x, w1, w3, w2, g, u, s, h = saved
    outer = lambda a, b: a.reshape(-1, a.shape[-1]).T @ b.reshape(-1, b.shape[-1])
    dh = dy @ w2
    dg = dh * u * s * (1 + g * (1 - s))
    du = dh * g * s
    dx = dg @ w1
    dx = dx + du @ w3
    return dx, outer(dg, x), outer(du, x), outer(dy, h)
"""

LINEAR_CROSS_ENTROPY = """
import numpy as np

def forward(h, W, y, ignore_index):
    z = h @ W.T
    m = z.max(1, keepdims=True)
    lse = m + np.log(np.exp(z - m).sum(1, keepdims=True))
    on = y != ignore_index
    t = np.where(on, y, 0)
    return np.where(on, lse[:, 0] - z[np.arange(len(y)), t], 0.0), (h, W, z - lse, t, on)

def backward(dl, saved):
    h, W, logp, t, on = saved
    dz = np.exp(logp)
    dz[np.arange(len(t)), t] -= 1.0
    dz *= (dl * on)[:, None]
    return dz @ W, dz.T @ h, None
"""

RIGHT = {
    "rms_norm": RMS_NORM,
    "layer_norm": LAYER_NORM,
    "self_attention": SELF_ATTENTION,
    "attention": ATTENTION,
    "linear": LINEAR,
    "softmax": SOFTMAX,
    "mean_cross_entropy": MEAN_CROSS_ENTROPY,
    "rope": ROPE,
    "swiglu": SWIGLU,
    "gelu": GELU,
    "gelu_erf": GELU_ERF,
    "relu": RELU,
    "relu2": RELU2,
    "embedding": EMBEDDING,
    "dropout": DROPOUT,
    "residual": RESIDUAL,
    "tied_embedding": TIED_EMBEDDING,
    "mlp": MLP,
    "linear_cross_entropy": LINEAR_CROSS_ENTROPY,
}

"""Right files that are written for less than the op's every case: for two axes, for equal heads, in float32.

Each is right as it stands; `grade` says what it was not tried on, and accuses nobody.
"""

PLAIN_CROSS_ENTROPY = """
import numpy as np
def forward(z, y):
    one_hot = np.eye(z.shape[1])[y]
    e = np.exp(z - z.max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)
    return -(one_hot * np.log(p)).sum(1).mean(), p - one_hot
def backward(d, diff):
    return d * diff / len(diff)
"""

SMOOTHED_CROSS_ENTROPY = """
import numpy as np
def forward(z, t, label_smoothing=0.0):
    m = z.max(1, keepdims=True)
    logp = z - m - np.log(np.exp(z - m).sum(1, keepdims=True))
    q = (1 - label_smoothing) * np.eye(z.shape[1])[t] + label_smoothing / z.shape[1]
    return -(q * logp).sum(1), np.exp(logp), q
def backward(dl, p, q):
    return (p - q) * dl[:, None]
"""

ONE_HOT_TARGETS = """
import numpy as np
def forward(z, y):
    e = np.exp(z - z.max(1, keepdims=True))
    p = e / e.sum(1, keepdims=True)
    return -(y * np.log(p)).sum(), p - y
def backward(d, diff):
    return d * diff
"""

EQUAL_HEADS = """
import numpy as np
def forward(q, k, v, mask=None):
    s = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    s = np.where(np.tri(q.shape[-2], dtype=bool) if mask is None else mask, s, -1e9)
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return p @ v, (q, k, v, p)
def backward(dy, saved):
    q, k, v, p = saved
    dp = dy @ v.swapaxes(-1, -2)
    ds = p * (dp - (dp * p).sum(-1, keepdims=True)) / np.sqrt(q.shape[-1])
    return ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ dy
"""

ONE_SEQUENCE = """
import numpy as np
def forward(X, Wq, Wk, Wv):
    Q, K, V = X @ Wq, X @ Wk, X @ Wv
    S = Q @ K.T / np.sqrt(Q.shape[1])
    A = np.exp(S - S.max(1, keepdims=True))
    A /= A.sum(1, keepdims=True)
    return A @ V, (X, Wq, Wk, Wv, Q, K, V, A)
def backward(dY, saved):
    X, Wq, Wk, Wv, Q, K, V, A = saved
    dV, dA = A.T @ dY, dY @ V.T
    dS = A * (dA - (dA * A).sum(1, keepdims=True)) / np.sqrt(Q.shape[1])
    dQ, dK = dS @ K, dS.T @ Q
    return dQ @ Wq.T + dK @ Wk.T + dV @ Wv.T, X.T @ dQ, X.T @ dK, X.T @ dV
"""

TWO_AXES_NORM = """
import numpy as np
def forward(x, gamma, beta, eps=1e-5):
    mu, var = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
    n = (x - mu) / np.sqrt(var + eps)
    return gamma * n + beta, (n, gamma, var, eps)
def backward(dout, saved):
    n, gamma, var, eps = saved
    N, D = dout.shape
    h = dout * gamma
    dx = (D * h - h.sum(1, keepdims=True) - n * (h * n).sum(1, keepdims=True)) / D
    return dx / np.sqrt(var + eps), (dout * n).sum(axis=0), dout.sum(axis=0)
"""

THREE_AXES_NORM = """
import numpy as np
def forward(x, w, b, eps=1e-5):
    B, T, C = x.shape
    mean = x.sum(-1) / C
    rstd = (((x - mean[:, :, None]) ** 2).sum(-1) / C + eps) ** -0.5
    n = (x - mean[:, :, None]) * rstd[:, :, None]
    return n * w + b, (n, w, rstd)
def backward(dy, saved):
    n, w, rstd = saved
    h = dy * w
    dx = h - h.mean(-1, keepdims=True) - n * (h * n).mean(-1, keepdims=True)
    return dx * rstd[:, :, None], (dy * n).sum((0, 1)), dy.sum((0, 1))
"""

TWO_AXES_LINEAR = """
def forward(X, W, b):
    return X @ W + b
def backward(dY, X, W, b):
    return dY @ W.T, X.T @ dY, dY.sum(axis=0)
"""

HEAD_WITH_A_BIAS = """
import numpy as np
def forward(h, W, y, b, ignore_index=-100):
    z = h @ W.T + b
    logp = z - z.max(1, keepdims=True)
    logp -= np.log(np.exp(logp).sum(1, keepdims=True))
    on = y != ignore_index
    rows = np.arange(len(y))
    return -logp[rows, y * on] * on, (h, W, logp, y * on, on)
def backward(dl, saved):
    h, W, logp, y, on = saved
    dz = np.exp(logp)
    dz[np.arange(len(y)), y] -= 1.0
    dz *= (dl * on)[:, None]
    return dz @ W, dz.T @ h, None, dz.sum(0)
"""

FULL_TABLES = """
import numpy as np
def rotate_half(x):
    a, b = np.split(x, 2, -1)
    return np.concatenate([-b, a], -1)
def forward(x, cos, sin):
    return x * cos + rotate_half(x) * sin
def backward(dy, x, cos, sin):
    return dy * cos - rotate_half(dy) * sin
"""

SOFTMAX_OF_A_MATRIX = """
import numpy as np
def forward(x, axis=1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)
def backward(dy, x):
    y = forward(x)
    return y * (dy - (dy * y).sum(1, keepdims=True))
"""

SINGLE_GELU = """
import numpy as np
f = np.float32
def parts(x):
    x = x.astype(f)
    return x, np.tanh(f(0.7978845608) * (x + f(0.044715) * x**3))
def forward(x):
    x, t = parts(x)
    return f(0.5) * x * (1 + t)
def backward(dy, x):
    x, t = parts(x)
    du = f(0.7978845608) * (1 + 3 * f(0.044715) * x * x)
    return dy.astype(f) * (f(0.5) * (1 + t) + f(0.5) * x * (1 - t * t) * du)
"""

SINGLE_INSIDE = """
import numpy as np
def forward(x, w, eps=1e-5):
    h = np.asarray(x, dtype=np.float32)
    r = 1 / np.sqrt(np.mean(h * h, -1, keepdims=True) + eps)
    return x * r * w, (x, w, r)
def backward(dy, saved):
    x, w, r = saved
    n, h = x * r, dy * w
    return r * (h - n * (h * n).mean(-1, keepdims=True)), (dy * n).reshape(-1, len(w)).sum(0)
"""

SINGLE_SOFTMAX = """
import numpy as np
def forward(x):
    e = np.exp(x.astype(np.float32) - x.astype(np.float32).max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)).astype(x.dtype)
def backward(dy, x):
    y = forward(x)
    return y * (dy - (dy * y).sum(-1, keepdims=True))
"""

KEPT_IN_A_GLOBAL = """
import numpy as np
np.seterr(all="raise")
kept = {}
def forward(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    kept["y"] = e / e.sum(-1, keepdims=True)
    return kept["y"]
def backward(dy):
    y = kept["y"]
    return y * (dy - (dy * y).sum(-1, keepdims=True))
"""

# name: (op, text, what is said of the forward, what must be said that it was not tried on)
TEXTBOOKS = {
    "no ignore_index": ("cross_entropy", PLAIN_CROSS_ENTROPY, "is right", "need ignore_index"),
    "smoothing alone": ("cross_entropy", SMOOTHED_CROSS_ENTROPY, "is right", "ignore_index and z"),
    "one-hot, a sum": ("cross_entropy", ONE_HOT_TARGETS, "the sum over rows, with one-hot", "need"),
    "equal heads": ("attention", EQUAL_HEADS, "is right", "fewer key heads than query heads"),
    "one sequence": ("self_attention", ONE_SEQUENCE, "for x of two axes", "other numbers of axes"),
    "axis=1": ("layer_norm", TWO_AXES_NORM, "is right", "x of more than 2 axes"),
    "B, T, C": ("layer_norm", THREE_AXES_NORM, "for x of three axes", "expected 3, got 2"),
    "X.T @ dY": ("linear", TWO_AXES_LINEAR, "(inputs, outputs)", "X of more than 2 axes"),
    "cos of D columns": ("rope", FULL_TABLES, "cos and sin of D columns", "part of each head"),
    "a head with a bias": (
        "linear_cross_entropy",
        HEAD_WITH_A_BIAS,
        "is right",
        "need label_smoothing and z_loss",
    ),
    "softmax over axis 1": ("softmax", SOFTMAX_OF_A_MATRIX, "is right", "x of more than 2 axes"),
}

"""Whole files with the usual slips, and what must be said of each in plain words."""

from tests.numerics.textbooks import HEAD_WITH_A_BIAS

SOFTMAX = """
import numpy as np
def forward(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
def backward({arguments}):
    p = forward(x)
    return p * (dy - (dy * p).sum({axis}))
"""

SOFTMAX_NO_MAXIMUM = """
import numpy as np
def forward(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)
def backward(dy, x):
    p = forward(x)
    return p * (dy - (dy * p).sum(-1, keepdims=True))
"""

LOSS_NO_MAXIMUM = """
import numpy as np
def forward(z, t):
    e = np.exp(z)
    p = e / e.sum(1, keepdims=True)
    return -np.log(p[np.arange(len(t)), t]).mean(), p, t
def backward(d, p, t):
    return d * (p - np.eye(p.shape[1])[t]) / len(t)
"""

LAYER_NORM = """
import numpy as np
def forward(x, g, b, eps):
    s = np.sqrt(x.var(-1, keepdims=True) + eps)
    n = (x - x.mean(-1, keepdims=True)) / s
    return n * g + b, (n, s, g)
def backward(dy, saved):
    n, s, g = saved
    h, ax = dy * g, tuple(range(dy.ndim - 1))
    return (h - h.mean({axis}) - n * (h * n).mean({axis})) / s, (dy * n).sum(ax), dy.sum(ax)
"""

RMS_FORWARD_AXIS = """
import numpy as np
def forward(x, w, eps):
    r = (np.mean(x * x, axis=0, keepdims=True) + eps) ** -0.5
    return x * r * w, (x, w, r)
def backward(dy, saved):
    x, w, r = saved
    return dy * w * r, (dy * x * r).reshape(-1, len(w)).sum(0)
"""

LOSS_AXIS = """
import numpy as np
def forward(z, t):
    e = np.exp(z - z.max())
    p = e / e.sum(axis=0)
    return -np.log(p[np.arange(len(t)), t]).mean(), p, t
def backward(d, p, t):
    return d * (p - np.eye(p.shape[1])[t]) / len(t)
"""

LINEAR = """
import numpy as np
def forward(x, W, b):
    return x @ {W} + b
def backward(dy, x, W, b):
    X, D = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return {gradients}
"""

LAST_SEQUENCE = """
def forward(x, W, b):
    return x @ W.T + b
def backward(dy, x, W, b):
    dx = dy @ W
    if x.ndim == 2:
        x, dy = x[None], dy[None]
    db = 0
    for sequence, d in zip(x, dy):
        dW = d.T @ sequence
        db = db + d.sum(0)
    return dx, dW, db
"""

LAST_ROW = """
import numpy as np
def forward(x, w, eps=1e-5):
    r = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    return x * r * w, (x, w, r)
def backward(dy, saved):
    x, w, r = saved
    n, h = x * r, dy * w
    for a, d in zip(n.reshape(-1, len(w)), dy.reshape(-1, len(w))):
        dw = a * d
    return r * (h - n * (h * n).mean(-1, keepdims=True)), dw
"""

MLP_OVERWRITTEN = """
import numpy as np
def forward(x, Wg, Wu, Wd):
    g, u = x @ Wg, x @ Wu
    s = 1 / (1 + np.exp(-g))
    return (g * s * u) @ Wd, (x, Wg, Wu, Wd, g, u, s)
def backward(dy, saved):
    x, Wg, Wu, Wd, g, u, s = saved
    h, dh = g * s * u, dy @ Wd.T
    dg, du = dh * u * (s + g * s * (1 - s)), dh * g * s
    dx = dg @ Wg.T
    dx = du @ Wu.T
    flat = lambda a: a.reshape(-1, a.shape[-1])
    return dx, flat(x).T @ flat(dg), flat(x).T @ flat(du), flat(h).T @ flat(dy)
"""

EMBEDDING_REVERSED = """
import numpy as np
def forward(table, ids):
    return table[ids]
def backward(dy, table, ids):
    d = np.zeros_like(table)
    np.add.at(d, ids, dy)
    return d
"""

SWIGLU_REVERSED = """
import numpy as np
def forward(gate, up):
    s = 1 / (1 + np.exp(-gate))
    return gate * s * up, (gate, up, s)
def backward(saved, dy):
    gate, up, s = saved
    return dy * up * (s + gate * s * (1 - s)), dy * gate * s
"""

_OVER_0, _KEPT, _LOST = "axis=0, keepdims=True", "axis=-1, keepdims=True", "axis=-1"
_RIGHT = "dy @ W, D.T @ X, D.sum(0)"

# name: (op, text, what must be said of it)
USUAL = {
    "softmax over axis 0": (
        "softmax",
        SOFTMAX.format(arguments="dy, x", axis=_OVER_0),
        r"^wrong axis: the sum of dy \* y runs over axis 0; .* the last axis",
    ),
    "softmax over all": (
        "softmax",
        SOFTMAX.format(arguments="dy, x", axis=""),
        r"^wrong axis: .* the whole array",
    ),
    "arguments reversed": (
        "softmax",
        SOFTMAX.format(arguments="x, dy", axis=_KEPT),
        r"backward\(x, dy\) takes its arguments in another order: it is right when dy comes last",
    ),
    "no maximum": (
        "softmax",
        SOFTMAX_NO_MAXIMUM,
        r"NaN or infinity where scores are near 1000: .* subtract each row's maximum",
    ),
    "the whole array's maximum": (
        "softmax",
        SOFTMAX_NO_MAXIMUM.replace("(x)", "(x - x.max())").replace("ard(x - x.max())", "ard(x)"),
        r"near 1000 in one row and near -1000 in the next: .* subtract each row's maximum",
    ),
    "a loss without it": ("cross_entropy", LOSS_NO_MAXIMUM, r"subtract each row's maximum"),
    "means over axis 0": (
        "layer_norm",
        LAYER_NORM.format(axis=_OVER_0),
        r"^wrong axis: the mean of dn and the mean of dn \* n run over axis 0",
    ),
    "keepdims forgotten": ("layer_norm", LAYER_NORM.format(axis=_LOST), r"needs keepdims=True"),
    "forward over axis 0": (
        "rms_norm",
        RMS_FORWARD_AXIS,
        r"^forward: wrong axis: the mean of x\^2 runs over axis 0",
    ),
    "a loss over the rows": ("cross_entropy", LOSS_AXIS, r"^forward: wrong axis: .* over the rows"),
    "gradients reordered": (
        "linear",
        LINEAR.format(W="W", gradients="X.T @ D, dy @ W.T, D.sum(0)"),
        r"backward returns dW, dx, db; in the order of forward's arrays they are dx, dW, db",
    ),
    "gradients in a circle": (
        "linear",
        LINEAR.format(W="W.T", gradients="D.sum(0), dy @ W, D.T @ X"),
        r"backward returns db, dx, dW; .* dx, dW, db",
    ),
    "W the wrong way round": (
        "linear",
        LINEAR.format(W="W.T", gradients="dy @ W.T, D.T @ X, D.sum(0)"),
        r"takes W the other way round than forward: y = x @ W\^T, .* dx = dy @ W$",
    ),
    "dW the wrong way round": (
        "linear",
        LINEAR.format(W="W", gradients="dy @ W.T, D.T @ X, D.sum(0)"),
        r"^dW has shape \(4, 5\); W has \(5, 4\): it is transposed",
    ),
    "db over the wrong axis": (
        "linear",
        LINEAR.format(W="W.T", gradients="dy @ W, D.T @ X, dy.sum(-1)"),
        r"^db has shape \(6,\); b has \(4,\): wrong axis",
    ),
    "= for += in a loop": (
        "linear",
        LAST_SEQUENCE,
        r"^dW counts the last item of the first axis alone: \+= became =",
    ),
    "= for += over rows": ("rms_norm", LAST_ROW, r"^dw counts the last row alone: \+= became ="),
    "= for += on two paths": ("mlp", MLP_OVERWRITTEN, r"path through the gate: .*\+= became ="),
    "a head's db averaged": (
        "linear_cross_entropy",
        HEAD_WITH_A_BIAS.replace("dz.sum(0)", "dz.mean(0)"),
        r"db is \d times too small: db is averaged over the rows: a bias gradient is their sum",
    ),
    "a head's db left out": (
        "linear_cross_entropy",
        HEAD_WITH_A_BIAS.replace("dz.sum(0)", "None"),
        r"^db is missing",
    ),
    "forward reversed": (
        "embedding",
        EMBEDDING_REVERSED,
        r"takes its arrays in another order, weight, ids; .* forward\(ids, table\)",
    ),
    "saved before dy": ("swiglu", SWIGLU_REVERSED, r"it is right when dy comes last"),
}

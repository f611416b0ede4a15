"""The head and its loss in one, fused. Derivation and signatures: `xplm.kernels.linear_cross_entropy`.

Rows whose target is ignored, such as the questions of a chat, are left out: they cost nothing, and what is not finite
in them is not seen. The others are taken a chunk at a time, as there; the chunk's logits lie in one array that all
chunks reuse, and their gradient overwrites them. Operands of 16 bits are multiplied as in `xplm_numpy.kernels.linear`;
where they are as they are stored, the gradient of the logits is rounded to their dtype once, and lies beside them.
FLOPs: 2 C V a row forward, 6 C V backward, all of them BLAS's; bytes beside its own: 4 V a row forward, 8 V backward,
and with a bias 8 V more forward, 12 V backward. A scale is one pass over the chunk each way, a cap three; its slopes
lie beside the chunk.
"""

import numpy as np

from xplm.kernels import linear_cross_entropy as portable
from xplm.kernels.linear_cross_entropy import LOGITS_PER_CHUNK, LinearCrossEntropySaved
from xplm_numpy.blas import product
from xplm_numpy.kernels.cross_entropy import backward_rows, forward_rows
from xplm_numpy.kernels.linear import operand, project, project_back, store
from xplm_numpy.narrow import bits, in_float32, takes
from xplm_numpy.whole import narrowed


def linear_cross_entropy_fwd(
    x,
    weight,
    targets,
    bias=None,
    *,
    ignore_index,
    label_smoothing=0.0,
    z_loss=0.0,
    logit_scale=1.0,
    logit_cap=None,
    island=None,
):
    options = {
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
        "z_loss": z_loss,
        "logit_scale": logit_scale,
        "logit_cap": logit_cap,
    }
    if not takes(x, weight, bias) or not in_float32(island):
        return portable.linear_cross_entropy_fwd(x, weight, targets, bias, **options, island=island)

    scored, x_rows, ids = _scored(x, weight, targets, ignore_index)
    losses, lses = (np.empty(len(ids), np.float32) for _ in range(2))
    shares = np.float32(label_smoothing), np.float32(z_loss)
    for rows, logits in _chunks(x_rows, weight):
        _project(x_rows[rows], weight, bias, logits)
        _scale_and_cap(logits, logit_scale, logit_cap)
        forward_rows(logits, ids[rows], ignore_index, *shares, losses[rows], lses[rows])
    loss, lse = (_spread(part, scored, len(x)) for part in (losses, lses))
    saved = LinearCrossEntropySaved(
        x, weight, targets, bias, lse, *options.values(), np.dtype(np.float32)
    )
    return loss, saved


def linear_cross_entropy_bwd(dloss, saved, *, is_frozen=False):
    x, weight, targets, bias, lse, ignore_index, label_smoothing, z_loss, scale, cap, island = saved
    if not takes(x, weight, bias) or not dloss.dtype == island == np.float32:
        return portable.linear_cross_entropy_bwd(dloss, saved, is_frozen=is_frozen)

    scored, x_rows, ids = _scored(x, weight, targets, ignore_index)
    dloss_rows, lse_rows = dloss[scored], lse[scored]
    shares = np.float32(label_smoothing), np.float32(z_loss)
    dx_rows = np.empty(x_rows.shape, np.float32)
    dweight = None
    dbias = None if bias is None or is_frozen else np.zeros(bias.shape, np.float32)
    for rows, logits in _chunks(x_rows, weight):
        _project(x_rows[rows], weight, bias, logits)
        _scale_and_cap(logits, scale, cap)
        slopes = None if cap is None else _slopes(logits, cap)

        # loss = cross_entropy(logits)
        dlogits = logits
        backward_rows(
            dloss_rows[rows], logits, ids[rows], lse_rows[rows], ignore_index, *shares, dlogits
        )

        # logits = c tanh(s logits / c)
        if slopes is not None:
            dlogits *= slopes
        if scale != 1.0:
            dlogits *= np.float32(scale)

        # logits = x @ weight^T + bias
        if dbias is not None:
            dbias += np.sum(dlogits, axis=0)
        dlogits = narrowed(dlogits, x_rows.dtype)
        project_back(dlogits, weight, dx_rows[rows])
        if is_frozen:
            continue
        part = product(dlogits.T, x_rows[rows], np.empty(weight.shape, np.float32))
        dweight = part if dweight is None else np.add(dweight, part, out=dweight)
    if dweight is None and not is_frozen:
        dweight = np.zeros(weight.shape, np.float32)
    return _spread(narrowed(dx_rows, x.dtype), scored, len(x)), dweight, None, dbias


def _project(x, weight, bias, logits):
    """logits = x @ weight^T + bias, where there is one."""
    project(x, weight, logits)
    if bias is not None:
        store(logits, bits(bias), logits)


def _scale_and_cap(logits, scale, cap):
    """logits = c tanh(s logits / c), in place; s logits without a cap."""
    if scale != 1.0:
        logits *= np.float32(scale)
    if cap is not None:
        logits /= np.float32(cap)
        np.tanh(logits, out=logits)
        logits *= np.float32(cap)


def _slopes(capped, cap):
    """1 - t^2 of capped logits c t."""
    t = capped / np.float32(cap)
    t *= t
    return np.subtract(np.float32(1.0), t, out=t)


def _scored(x, weight, targets, ignore_index):
    """The rows whose target is not ignored: which they are, they as an operand, and their targets."""
    scored = np.flatnonzero(targets != ignore_index)
    ids = np.asarray(targets, np.int64)[scored]
    return scored, operand(x if len(scored) == len(x) else x[scored], weight), ids


def _spread(part, scored, n):
    """An array of n rows that has the scored ones where they were, and zeros elsewhere."""
    if len(part) == n:
        return part
    whole = np.zeros((n, *part.shape[1:]), part.dtype)
    whole[scored] = part
    return whole


def _chunks(x, weight):
    """Rows whose logits are made together, and where."""
    N, V = len(x), len(weight)
    n_rows = max(1, LOGITS_PER_CHUNK // V)
    logits = np.empty((min(N, n_rows), V), np.float32)
    for begin in range(0, N, n_rows):
        end = min(begin + n_rows, N)
        yield slice(begin, end), logits[: end - begin]

"""Mistakes to plant in the library: those of published from-scratch code, and others that are as easy to make."""

from typing import NamedTuple


class Mutation(NamedTuple):
    says: str  # the mistake
    path: str
    old: str  # occurs once in the file
    new: str
    check: str  # what must notice it: "op NAME", "layer NAME", "model NAME" or "clip"


K = "xplm/kernels"
L = "xplm/layers"

PUBLISHED = [
    Mutation(
        "1/sqrt(d) missing in dq and dk",
        f"{K}/attention.py",
        "dS = P * (dP - delta) * scale",
        "dS = P * (dP - delta)",
        "op attention",
    ),
    Mutation(
        "layer_norm's variance path has an extra 1/std",
        f"{K}/layer_norm.py",
        "- n * xp.mean(dn * n,",
        "- n * s * xp.mean(dn * n,",
        "op layer_norm",
    ),
    Mutation(
        "bias gradient averaged once more",
        f"{K}/linear.py",
        "xp.sum(dyw, axis=0)",
        "xp.mean(dyw, axis=0)",
        "op linear",
    ),
    Mutation(
        "clipping acts on one tensor at a time and never fires",
        "xplm/train/clip.py",
        "{name: grad * scale for",
        "{name: grad * (max_norm / xp.maximum(global_norm({name: grad}), max_norm)) for",
        "clip",
    ),
]

KERNELS = [
    Mutation(
        "dweight averaged over rows",
        f"{K}/linear.py",
        "dyw.T @ rows",
        "dyw.T @ rows / rows.shape[0]",
        "op linear",
    ),
    Mutation(
        "softmax's sum lost in attention",
        f"{K}/attention.py",
        "P * (dP - delta) * scale",
        "P * dP * scale",
        "op attention",
    ),
    Mutation(
        "group sum of dk missing in GQA",
        f"{K}/attention.py",
        "dk = xp.sum(xp.matrix_transpose(dS) @ qw, axis=2)",
        "dk = (xp.matrix_transpose(dS) @ qw)[:, :, 0, :, :]",
        "op attention",
    ),
    Mutation(
        "dv averaged over its group",
        f"{K}/attention.py",
        "dv = xp.sum(xp.matrix_transpose(P) @ dyw, axis=2)",
        "dv = xp.mean(xp.matrix_transpose(P) @ dyw, axis=2)",
        "op attention",
    ),
    Mutation(
        "mask not applied again",
        f"{K}/attention.py",
        'exponent = xp.where(visible, exponent, xp.full_like(exponent, -float("inf")))',
        "pass",
        "op attention",
    ),
    Mutation(
        "one chunk's dv overwrites another's",
        f"{K}/attention.py",
        "dv = dv_part if dv is None else dv + dv_part",
        "dv = dv_part",
        "op attention",
    ),
    Mutation(
        "a window's dk lands in the first slots",
        f"{K}/attention.py",
        "_place(dk_part, low, S), _place(dv_part, low, S)",
        "_place(dk_part, 0, S), _place(dv_part, low, S)",
        "op attention",
    ),
    Mutation(
        "softmax by the diagonal of its Jacobian",
        f"{K}/softmax.py",
        "dx = y * (dyw - xp.sum(dyw * y, axis=-1, keepdims=True))",
        "dx = y * (1.0 - y) * dyw",
        "op softmax",
    ),
    Mutation(
        "a mean for softmax's sum",
        f"{K}/softmax.py",
        "(dyw - xp.sum(dyw * y",
        "(dyw - xp.mean(dyw * y",
        "op softmax",
    ),
    Mutation(
        "RoPE rotated the wrong way",
        f"{K}/rope.py",
        "dy1 * cos + dy2 * sin, dy2 * cos - dy1 * sin",
        "dy1 * cos - dy2 * sin, dy2 * cos + dy1 * sin",
        "op rope",
    ),
    Mutation(
        "a sign wrong in one half of RoPE",
        f"{K}/rope.py",
        "dy2 * cos - dy1 * sin",
        "dy2 * cos + dy1 * sin",
        "op rope",
    ),
    Mutation(
        "rms_norm without the path through rstd",
        f"{K}/rms_norm.py",
        "dn - n * xp.mean(dn * n, axis=-1, keepdims=True)",
        "dn",
        "op rms_norm",
    ),
    Mutation(
        "a sum for rms_norm's mean",
        f"{K}/rms_norm.py",
        "n * xp.mean(dn * n",
        "n * xp.sum(dn * n",
        "op rms_norm",
    ),
    Mutation(
        "rms_norm's dx without the weight",
        f"{K}/rms_norm.py",
        "dn = dyw * cast(weight, wide)",
        "dn = dyw",
        "op rms_norm",
    ),
    Mutation(
        "rms_norm's dweight from x that is not normalised",
        f"{K}/rms_norm.py",
        "xp.reshape(dyw * n, (-1,",
        "xp.reshape(dyw * cast(x, wide), (-1,",
        "op rms_norm",
    ),
    Mutation(
        "layer_norm without the path through the mean",
        f"{K}/layer_norm.py",
        "dn - xp.mean(dn, axis=-1, keepdims=True) - n",
        "dn - n",
        "op layer_norm",
    ),
    Mutation(
        "layer_norm's dbias averaged",
        f"{K}/layer_norm.py",
        "dbias = xp.sum(",
        "dbias = xp.mean(",
        "op layer_norm",
    ),
    Mutation(
        "dropout's mask not applied on the way back",
        f"{K}/dropout.py",
        "_scale_kept(dy, saved.keep, saved.rate), None",
        "dy / (1.0 - saved.rate), None",
        "op dropout",
    ),
    Mutation(
        "dropout's scale forgotten on the way back",
        f"{K}/dropout.py",
        "_scale_kept(dy, saved.keep, saved.rate), None",
        "_scale_kept(dy, saved.keep, 0.0), None",
        "op dropout",
    ),
    Mutation(
        "repeated ids averaged",
        f"{K}/embedding.py",
        "return None, xp.where(occurs[:, None], dweight, xp.zeros_like(dweight))",
        "counts = xp.sum(cast(every[:, None] == ids[None, :], dyw.dtype), axis=1)[:, None]\n"
        "    return None, xp.where(occurs[:, None], dweight / xp.where(counts > 0, counts, 1.0), 0.0)",
        "op embedding",
    ),
    Mutation(
        "rows of ids that do not occur are not zero",
        f"{K}/embedding.py",
        "return None, xp.where(occurs[:, None], dweight, xp.zeros_like(dweight))",
        "return None, dweight",
        "op embedding",
    ),
    Mutation(
        "rows that are not scored get a gradient",
        f"{K}/cross_entropy.py",
        "dx = xp.where(counted, dx * cast(dloss, wide)[:, None], xp.zeros_like(dx))",
        "dx = dx * cast(dloss, wide)[:, None]",
        "op cross_entropy",
    ),
    Mutation(
        "one-hot target not subtracted",
        f"{K}/cross_entropy.py",
        "targets[:, None], p - (1.0 - label_smoothing), p)",
        "targets[:, None], p, p)",
        "op cross_entropy",
    ),
    Mutation(
        "label smoothing over V - 1 ids",
        f"{K}/cross_entropy.py",
        "dx = dx - label_smoothing / V",
        "dx = dx - label_smoothing / (V - 1)",
        "op cross_entropy",
    ),
    Mutation(
        "z-loss without its 2",
        f"{K}/cross_entropy.py",
        "(1.0 + 2.0 * z_loss * lse)",
        "(1.0 + z_loss * lse)",
        "op cross_entropy",
    ),
    Mutation(
        "dloss ignored by the head",
        f"{K}/linear_cross_entropy.py",
        "cross_entropy_bwd(dloss[rows], loss_saved)",
        "cross_entropy_bwd(xp.ones_like(dloss[rows]), loss_saved)",
        "op linear_cross_entropy",
    ),
    Mutation(
        "one chunk's head gradient overwrites another's",
        f"{K}/linear_cross_entropy.py",
        "dweight = dweight_part if dweight is None else dweight + dweight_part",
        "dweight = dweight_part",
        "op linear_cross_entropy",
    ),
]

LAYERS = [
    Mutation(
        "residual gradient dropped",
        f"{K}/fusions/add_rms_norm.py",
        "return cast(dy + dx, dx.dtype), dweight",
        "return dx, dweight",
        "layer block",
    ),
    Mutation(
        "residual gradient dropped beside layer_norm",
        f"{L}/norm.py",
        "return dy + norm_layer_bwd(",
        "return norm_layer_bwd(",
        "layer block",
    ),
    Mutation(
        "what is normed is the branch without its residual",
        f"{K}/fusions/add_rms_norm.py",
        "rms_norm_fwd(y, weight",
        "rms_norm_fwd(branch, weight",
        "layer block",
    ),
    Mutation(
        "dropout not undone",
        f"{L}/block.py",
        "dz = undrop(rt, dx, saved.mlp_drop)",
        "dz = dx",
        "layer block with dropout",
    ),
    Mutation(
        "only one of q, k, v passes its gradient to x",
        f"{L}/attention.py",
        'dx = dx + linear_layer_bwd(rt, f"{name}.v_proj"',
        'dx = linear_layer_bwd(rt, f"{name}.v_proj"',
        "layer attention_layer",
    ),
    Mutation(
        "keys not turned back",
        f"{L}/attention.py",
        "dk, _, _ = rt.ops.rope_bwd(dk, saved.rope_k)",
        "pass",
        "layer attention_layer",
    ),
    Mutation(
        "heads and positions swapped when heads are joined",
        f"{L}/attention.py",
        "dq, dk, dv = join_heads(rt, dq), join_heads(rt, dk), join_heads(rt, dv)",
        "dq, dk, dv = (xp.reshape(d, (B, T, -1)) for d in (dq, dk, dv))",
        "layer attention_layer",
    ),
    Mutation(
        "the gate passes no gradient to x",
        f"{L}/mlp.py",
        "return dx_up + linear_layer_bwd(",
        "return linear_layer_bwd(",
        "layer mlp",
    ),
    Mutation(
        "a linear layer's bias gradient is lost at zero",
        f"{L}/linear.py",
        'grads.add(f"{name}.bias", dbias)',
        'grads.add(f"{name}.bias", None if dbias is None else dbias * 0.0)',
        "layer linear_layer",
    ),
    Mutation(
        "gradients of norm weight and bias swapped",
        f"{L}/norm.py",
        '"weight": dweight, "bias": dbias',
        '"weight": dbias, "bias": dweight',
        "layer norm_layer",
    ),
    Mutation(
        "learned positions averaged over the batch",
        "xplm/models/decoder.py",
        "dx = rt.backend.xp.sum(cast(dx, wide), axis=0, keepdims=True)",
        "dx = rt.backend.xp.mean(cast(dx, wide), axis=0, keepdims=True)",
        "layer embed",
    ),
]

MODELS = [
    Mutation(
        "tied table loses its gradient as head",
        "xplm/gradients.py",
        "self._parts.pop(name) + gradient",
        "gradient",
        "model llama",
    ),
    Mutation(
        "tied table loses its gradient as embedding",
        "xplm/gradients.py",
        "self._parts.pop(name) + gradient",
        "self._parts.pop(name)",
        "model llama",
    ),
    Mutation(
        "mean over padded tokens",
        "xplm/models/training.py",
        "xp.full_like(losses, loss_scale / n_targets,",
        "xp.full_like(losses, loss_scale / losses.shape[0],",
        "model llama",
    ),
    Mutation(
        "blocks gone back through in forward order",
        "xplm/models/training.py",
        "saved = kept.pop()",
        "saved = kept.pop(0)",
        "model gpt2",
    ),
    Mutation(
        "final norm skipped on the way back",
        "xplm/models/head.py",
        "return norm_layer_bwd(rt, config.norm, NORM, dn, saved.norm, grads)",
        "norm_layer_bwd(rt, config.norm, NORM, dn, saved.norm, grads)\n    return dn",
        "model starcoder2",
    ),
]

MUTATIONS = PUBLISHED + KERNELS + LAYERS + MODELS

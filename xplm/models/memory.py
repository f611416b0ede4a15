"""What passes through the decoder hold in memory, in bytes, foretold from its configuration.

Letters as in `xplm.typing`; N = B T positions, c the bytes of a number in the compute dtype, w those of a wide one.

    saved by a block    x, norm(x)               2 C c        attention's residual stream, and what q, k, v read
                        q, k, v, y               2 (H + K) D c
                        lse                      H w
                        x, norm(x)               2 C c        the MLP's
                        gate, up, hidden         3 F c        up, hidden alone without a gate: 2 F c
                        rstd, and the mean of layer_norm, twice           in the norm's island
                        adapters                 R c each;   dropout   1 byte for each number dropped or kept: 2 C

times N. An array that two ops save is there once. Beside what is saved, an op has arrays of its own while it runs; the
most that a block takes going forward or back is its scratch, whose terms stand beside the line that they belong to.

Not counted: rows of statistics in an op, tiles of the fused kernels, what BLAS packs, and tables of RoPE. The steps of
portable kernels are counted as NumPy takes them, which writes over a step that nobody holds; a library that does not
takes more.
"""

from typing import NamedTuple

from xplm.config import DecoderConfig
from xplm.kernels import PORTABLE
from xplm.kernels.attention import QUERY_ROWS
from xplm.kernels.linear_cross_entropy import LOGITS_PER_CHUNK
from xplm.runtime import Runtime
from xplm.specs import RMSNormSpec


class Widths(NamedTuple):
    """Numbers at a position in the arrays of a block, and bytes of a number."""

    C: int
    F: int
    q: int  # H D
    kv: int  # K D
    heads: int  # H
    compute: int  # bytes
    wide: int  # bytes of the dtype that sums run in
    is_narrow: bool  # whether products cast their operands to a wider dtype
    is_portable: bool  # whether attention and what is like it make whole arrays of steps between


class HeadScratch(NamedTuple):
    """Bytes of the head and its loss."""

    chunk: int  # the logits of the rows that are taken together
    logits: int  # they, and what is made of them
    gradients: int  # of the table, and the table where it is widened


def widths(rt: Runtime, config: DecoderConfig) -> Widths:
    """The letters of a configuration, and the sizes of a policy."""
    compute = rt.host_dtype.compute.itemsize
    wide = max(4, compute)
    block = config.blocks[0]
    heads, D = block.mixer.num_heads, block.mixer.head_dim
    is_whole = rt.ops.attention_fwd is PORTABLE["attention_fwd"]
    return Widths(
        config.hidden_size,
        block.mlp.intermediate_size,
        heads * D,
        block.mixer.num_key_value_heads * D,
        heads,
        compute,
        wide,
        compute < wide,
        is_whole or wide > 4 or rt.policy.softmax != "float32",  # what fused kernels hand on
    )


def block_saved(
    rt: Runtime, config: DecoderConfig, n: int, *, rank: int = 0, has_dropout: bool = False
) -> dict[str, int]:
    """Bytes that one block's forward pass saves for its backward pass, by name.

    Args:
        rt: kernels and dtypes.
        config: the model's.
        n: positions, N.
        rank: of the adapters beside its matrices; 0: there are none.
        has_dropout: whether its two branches are dropped from.
    """
    w = widths(rt, config)
    is_gated = config.blocks[0].mlp.is_gated
    statistics = rt.host_dtype.norm.itemsize * (1 if isinstance(config.norm, RMSNormSpec) else 2)
    saved = {
        "attention_norm.x": w.C * w.compute,
        "attention_norm.statistics": statistics,
        "attention.x": w.C * w.compute,
        "attention.q": w.q * w.compute,
        "attention.k": w.kv * w.compute,
        "attention.v": w.kv * w.compute,
        "attention.y": w.q * w.compute,
        "attention.lse": w.heads * w.wide,
        "mlp_norm.x": w.C * w.compute,
        "mlp_norm.statistics": statistics,
        "mlp.x": w.C * w.compute,
        "mlp.up": w.F * w.compute,
        "mlp.hidden": w.F * w.compute,
    }
    if is_gated:
        saved["mlp.gate"] = w.F * w.compute
    if w.is_portable and w.heads > 1:  # a copy; fused, it is y itself, as one head's is
        saved["attention.y, heads joined"] = w.q * w.compute
    if rank:
        saved["adapters"] = (7 if is_gated else 6) * rank * w.compute
    if has_dropout:
        saved["dropout"] = 2 * w.C
    return {name: n * n_bytes for name, n_bytes in saved.items()}


def forward_scratch(rt: Runtime, config: DecoderConfig, n: int, slots: int) -> int:
    """Bytes beside what is saved, at most, in a block's forward pass.

    Args:
        rt: kernels and dtypes.
        config: the model's.
        n: positions, N.
        slots: keys that these attend to, of all rows together: B S.
    """
    w = widths(rt, config)
    mlp = n * w.C * w.compute  # y, before the residual takes it in
    if w.is_narrow:  # the operand, and the product before it is rounded
        mlp += n * (w.F + w.C) * w.wide
    return max(mlp, n * w.q * w.compute + _attention_forward(w, n, slots))


def backward_scratch(
    rt: Runtime, config: DecoderConfig, n: int, context: int, *, has_dropout: bool = False
) -> int:
    """Bytes beside what is saved and the gradients of parameters, at most, in a block's backward pass.

    Args:
        rt: kernels and dtypes.
        config: the model's.
        n: positions, N.
        context: of them in a row, T.
        has_dropout: as `block_saved` takes it.
    """
    w = widths(rt, config)
    x, hidden = n * w.C * w.compute, n * w.F * w.compute
    q, kv = n * w.q * w.compute, n * w.kv * w.compute
    is_gated = config.blocks[0].mlp.is_gated
    n_hidden = 3 if is_gated else 2  # dhidden, dup, dgate

    # dx; then dhidden, dup, dgate; then their dx, and its sum with the one before
    parts = x * (3 if is_gated else 1)
    mlp = x + n_hidden * hidden + parts + _product_back(w, n, w.C, w.F)
    if w.is_portable:  # sigmoid or tanh, the slope, and two steps between; gate, up and dy widened
        steps = 7 if w.is_narrow else 4
        mlp = max(mlp, x + n_hidden * hidden + steps * n * w.F * w.wide)

    # dx before and after the MLP, dn; dheads, dq, dk, dv; dx of q, of k, and the sum
    attention = 3 * x + 2 * q + 2 * kv
    products = 3 * x + _product_back(w, n, w.C, w.q)
    # Behind the mask a branch's dy is another than dx; one branch at a time.
    dropped = x if has_dropout else 0
    return dropped + max(mlp, attention + max(products, _attention_back(w, n, context)))


def head_scratch(
    rt: Runtime, config: DecoderConfig, n: int, *, is_frozen: bool = False
) -> HeadScratch:
    """What the head and its loss take, forward and back, when they take the most.

    Args:
        rt: kernels and dtypes.
        config: the model's.
        n: positions, N.
        is_frozen: whether the table's gradient is left out.
    """
    w = widths(rt, config)
    table = config.vocab_size * w.C * w.wide
    rows = min(n, max(1, LOGITS_PER_CHUNK // config.vocab_size))
    chunk = rows * config.vocab_size * w.wide
    has_more = rows < n  # then the gradient of a chunk lies beside the sum
    if not w.is_portable and rt.host_dtype.loss.itemsize == 4:  # narrow, x and dx widened too
        whole = 2 * n * w.C * w.wide if w.is_narrow else 0
        n_gradients = 0 if is_frozen else 2 if has_more else 1
        return HeadScratch(chunk, chunk + whole, n_gradients * table)

    # logits, p, dlogits and three steps between, and what is left of the chunk before
    n_gradients = 2 if has_more and not is_frozen else 0
    steps = HeadScratch(chunk, (7 if has_more else 6) * chunk, n_gradients * table)
    # logits and dlogits; the table widened, and the gradient of a chunk, its sum, and the sum before
    tables = 3 if has_more else (2 if w.is_narrow else 1)
    if is_frozen:
        tables = 1 if w.is_narrow else 0
    product = HeadScratch(chunk, (3 if has_more else 2) * chunk, tables * table)
    return max(steps, product, key=lambda scratch: scratch.logits + scratch.gradients)


def largest_activation(rt: Runtime, config: DecoderConfig, n: int) -> int:
    """Bytes of the largest array of a block's N positions."""
    w = widths(rt, config)
    return n * max(w.C, w.F, w.q) * w.wide


def _product_back(w: Widths, n: int, outputs: int, inputs: int) -> int:
    """dy, x and dx widened, and the weight, of which a fused kernel widens a part at a time."""
    if not w.is_narrow:
        return 0
    return (n * (2 * max(inputs, outputs) + min(inputs, outputs)) + inputs * outputs) * w.wide


def _attention_forward(w: Widths, n: int, slots: int) -> int:
    """Fused, k and v in blocks, and q, k, v and y where they are widened; portable, some queries' scores, thrice, and
    k and v.
    """
    if not w.is_portable:
        whole = 2 * n * w.q + 2 * slots * w.kv if w.is_narrow else 0
        return (2 * slots * w.kv + whole) * w.wide
    scores = QUERY_ROWS * slots * w.heads * w.wide
    return 3 * scores + (2 * slots * w.kv * w.wide if w.is_narrow else 0)


def _attention_back(w: Widths, n: int, context: int) -> int:
    """Fused, what is widened: q, k, v, y, dy, dq, dk and dv; portable, scores, P, dP and a step between, and dq, dk and
    dv anew.
    """
    if not w.is_portable:
        return 4 * n * (w.q + w.kv) * w.wide if w.is_narrow else 0
    scores = min(QUERY_ROWS, context) * n * w.heads * w.wide
    return 4 * scores + n * (w.q + 2 * w.kv) * w.wide

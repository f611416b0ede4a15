"""All blocks for one token a row in one call: `xplm.kernels.fusions.bind_blocks`.

Where each layer's arrays lie is written down once, for layers differ by nothing else; a token then takes one call into
compiled code where it took two a layer, and the checks of arguments before each. Bytes and FLOPs: those of the halves.

Numerics. As the halves', bit for bit: each of their operations is rounded as it is written.
"""

import numpy as np

from xplm.errors import KernelError
from xplm.kernels.fusions.bind_blocks import bind_blocks as portable
from xplm.kernels.parts.norms import RMS
from xplm.kernels.rope import NEIGHBOURS
from xplm_numpy.activations import CODES
from xplm_numpy.arrays import moved
from xplm_numpy.attention_decode import sink_bits
from xplm_numpy.halves import KINDS, norm_bits
from xplm_numpy.jit import serial
from xplm_numpy.kernels.norm_attention_residual import NOT_ROTATED, find_slots
from xplm_numpy.kernels.norm_attention_residual import compute as attention_kernel
from xplm_numpy.kernels.norm_mlp_residual import compute as mlp_kernel
from xplm_numpy.launch import launched
from xplm_numpy.narrow import FLOAT32, alike, bias_bits, bits, in_float32, takes, weight_bits

compute_attention_half = attention_kernel.__wrapped__  # as compiled code calls it
compute_mlp_half = mlp_kernel.__wrapped__


def bind_blocks(
    blocks, *, attention_half, mlp_half, scale, cap=None, activation="silu", branch_scale=1.0, norm_kind=RMS, eps,
    island=None,
):  # fmt: skip
    by_halves = portable(
        blocks, attention_half=attention_half, mlp_half=mlp_half, scale=scale, cap=cap, activation=activation,
        branch_scale=branch_scale, norm_kind=norm_kind, eps=eps, island=island,
    )  # fmt: skip
    layers = [_laid_out(block, norm_kind) for block in blocks]
    if not layers or None in layers or not in_float32(island):
        return by_halves
    if not all(map(_differ_by_place, zip(*layers, strict=True))):
        return by_halves

    places = [_places(half) for half in zip(*layers, strict=True)]
    windows = np.array([block.window or 0 for block in blocks], np.int64)
    is_parallel = np.array([block.is_parallel for block in blocks])
    tables_of = np.array([-1 if block.table is None else block.table for block in blocks])
    are_neighbours = np.array([block.pairs == NEIGHBOURS for block in blocks])
    scale, cap = np.float32(scale), np.float32(cap or 0.0)
    ends = np.float32(branch_scale), KINDS[norm_kind], np.float32(eps)

    def step(x, tables, caches, rows):
        stored = [(cache.keys, cache.values) for cache in caches]
        is_taken = (
            len(stored) == len(layers)  # which must live as long as their places are known
            and x.shape[1] == 1
            and _are_alike(tables)
            and len({id(cache.map) for cache in caches}) == 1
            and all(array.flags.carray for pair in stored for array in pair)
            and takes(x, *stored[0])
            and _differ_by_place(stored)
        )
        if not is_taken:
            return by_halves(x, tables, caches, rows)

        cos, sin = map(np.stack, zip(*tables or [(NOT_ROTATED, NOT_ROTATED)], strict=True))
        cache = tuple(map(bits, stored[0]))
        slots = find_slots(caches[0], rows)
        y, between = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
        try:
            _step(
                bits(x),
                *layers[0],
                cache,
                *places,
                _places(stored),
                *slots,
                cos,
                sin,
                tables_of,
                are_neighbours,
                np.asarray(rows.starts, np.int64),
                scale,
                windows,
                cap,
                is_parallel,
                CODES[activation],
                *ends,
                bits(between),
                bits(y),
            )
        except KernelError:
            return by_halves(x, tables, caches, rows)
        return y

    return step


def _laid_out(block, norm_kind):
    """The arrays of both halves, as these take them; None if they would have to be copied, or are not for kernels."""
    if callable(block.mlp):
        return None
    halves = zip((block.attention, block.mlp), (4, 3), block.output_norms, strict=True)
    found = []
    for (norm, *linears), n, output_norm in halves:
        weights, biases = linears[:n], linears[n : 2 * n]
        norms, sinks = linears[2 * n : 2 * n + 2], linears[2 * n + 2 :]
        there = [array for array in (norm, *linears, output_norm) if array is not None]
        if not takes(*there) or not alike(weights):
            return None
        if not all(array.flags.c_contiguous and array.flags.aligned for array in there):
            return None
        found.append(
            (
                norm_bits(norm, norm_kind),
                *(weight_bits(weight, weights[-1]) for weight in weights),
                *(bias_bits(bias, weights[-1]) for bias in biases),
                *(norm_bits(part, norm_kind) for part in norms),
                *map(sink_bits, sinks),
                norm_bits(output_norm, norm_kind),
            )
        )
    return found


def _are_alike(tables):
    """Whether the tables of all kinds of RoPE are float32, and of one shape."""
    every = [array for pair in tables for array in pair]
    return all(array.dtype == FLOAT32 and array.shape == every[0].shape for array in every)


def _differ_by_place(layers):
    """Whether nothing but their addresses tells the arrays of one layer from those of another."""
    first, *others = ([(array.shape, array.dtype) for array in arrays] for arrays in layers)
    return all(other == first for other in others)


def _places(layers):
    """The addresses of all arrays (L, arrays of a layer)."""
    return np.array([[a.__array_interface__["data"][0] for a in arrays] for arrays in layers])


@launched
@serial(is_kernel=True)
def _step(
    x, attention, mlp, cache, attention_places, mlp_places, cache_places, slots_of_blocks, K, head_slots,
    cos, sin, tables_of, are_neighbours, starts, scale, windows, cap, is_parallel, activation, branch_scale, kind,
    eps, between, y,
):  # fmt: skip
    """attention, mlp, cache: the first layer's arrays; places: where those of each layer lie.

    cos, sin (N, B or 1, 1, 1, R/2); tables_of (L,): which of the N a layer takes, -1 for none.
    """
    rows = x
    for layer in range(len(windows)):
        keys, values = moved(cache, cache_places[layer])
        table = max(tables_of[layer], 0)
        half = cos.shape[4] if tables_of[layer] >= 0 else 0
        compute_attention_half(
            rows, *moved(attention, attention_places[layer]),
            cos[table, :, :, :, :half], sin[table, :, :, :, :half], keys, values,
            slots_of_blocks, K, head_slots, starts, scale, windows[layer], cap, are_neighbours[layer],
            branch_scale, kind, eps, between,
        )  # fmt: skip
        read = rows if is_parallel[layer] else between
        compute_mlp_half(
            read, between, *moved(mlp, mlp_places[layer]), activation, branch_scale, kind, eps, y
        )
        rows = y

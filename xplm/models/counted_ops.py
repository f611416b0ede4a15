"""The ops of a block whose memory is counted (`xplm.models.memory`): by hand where a run does not show it.

A kernel of the library's own shows its steps on counted arrays. One that a backend fuses shows none, products are not
computed, and attention is counted for all its keys, of which the run has a few.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from xplm.kernels import PORTABLE
from xplm.kernels.attention import QUERY_ROWS
from xplm.kernels.expert_linear import ExpertLinearSaved
from xplm.kernels.fusions import FUSIONS
from xplm.kernels.linear import LinearSaved
from xplm.meter import Counted, Meter
from xplm.runtime import Runtime
from xplm.views import KeyView, gather

ROWS = 2
"""Positions of a block that is measured."""

Ops: TypeAlias = dict[str, Callable[..., Any]]


class Counting(NamedTuple):
    """What is counted, and for how much more than the run has."""

    rt: Runtime
    meter: Meter
    tokens: int  # of a row
    n: int  # of all rows
    keys: int  # of all rows

    @property
    def wide(self) -> int:
        """Bytes of a number in the dtype that sums run in."""
        return wide_bytes(self.rt)

    def widened(self, *arrays: Any) -> int:
        """Bytes of wide copies of the narrow ones among them."""
        wide = self.wide
        return sum(wide * self.n * x.size // ROWS for x in arrays if x.itemsize < wide)

    def matrix(self, weight: Any) -> int:
        """Bytes of a weight that is widened whole; a fused kernel widens a part at a time."""
        is_whole = not is_fused(self.rt, "linear_fwd") and weight.itemsize != self.wide
        return self.wide * int(weight.size) if is_whole else 0

    def remade(self, *arrays: Any) -> int:
        """Bytes of keys and values that are made of a cache's latents: a row a slot, of which `n` are counted."""
        wholes = [x if x.base is None else x.base for x in arrays if isinstance(x, Counted)]
        return sum(whole.nbytes * (self.keys - self.n) // ROWS for whole in wholes)


def count_ops(rt: Runtime, meter: Meter, batch: int, tokens: int, slots: int) -> Ops:
    """Kernels of counted arrays; of parameters they give no gradients.

    Args:
        rt: backend, kernels and dtypes.
        meter: takes what they hold.
        batch: rows.
        tokens: of a row.
        slots: of a row's cache, or its tokens.
    """
    counting = Counting(rt, meter, tokens, batch * tokens, batch * slots)
    shown = {name: _shown(counting, name) for name in rt.kernels}
    return shown | _linear_ops(counting) | _attention_ops(counting)


def is_fused(rt: Runtime, name: str) -> bool:
    """Whether an op is the backend's own, and takes arrays of this policy."""
    op, _, _ = name.rpartition("_")
    island = {"attention": rt.policy.softmax, "linear_cross_entropy": rt.policy.loss}.get(op)
    is_taken = rt.host_dtype.compute.itemsize <= 4 and island in (None, "float32")
    return is_taken and rt.kernels[name] is not (PORTABLE | FUSIONS)[name]


def wide_bytes(rt: Runtime) -> int:
    """Bytes of a number in the dtype that sums run in."""
    return max(4, rt.host_dtype.compute.itemsize)


def _linear_ops(counting: Counting) -> Ops:
    """Products, which are not computed."""

    def linear_fwd(x: Any, weight: Any, bias: Any = None) -> tuple[Any, LinearSaved]:
        y = counting.meter.count(np.zeros((*x.shape[:-1], len(weight)), x.dtype))
        counting.meter.note(counting.widened(x, y) + counting.matrix(weight))
        return y, LinearSaved(x, weight, bias)

    def linear_bwd(dy: Any, saved: LinearSaved, **_: Any) -> tuple[Any, None, None]:
        dx = np.zeros_like(saved.x)
        counting.meter.note(counting.widened(dy, saved.x, dx) + counting.matrix(saved.weight))
        return dx, None, None

    def expert_linear_fwd(
        x: Any, weight: Any, bias: Any = None, *, counts: Any
    ) -> tuple[Any, ExpertLinearSaved]:
        y, _ = linear_fwd(x, weight[0])
        return y, ExpertLinearSaved(x, weight, bias, counts)

    def expert_linear_bwd(dy: Any, saved: Any, **_: Any) -> tuple[Any, None, None]:
        if not is_fused(counting.rt, "expert_linear_bwd"):
            # The experts' gradients, before they are stacked.
            counting.meter.note(counting.wide * saved.weight.size)
        return linear_bwd(dy, LinearSaved(saved.x, saved.weight[0], None))

    by_hand = (linear_fwd, linear_bwd, expert_linear_fwd, expert_linear_bwd)
    return {op.__name__: op for op in by_hand}


def _attention_ops(counting: Counting) -> Ops:
    """Attention, over all keys."""
    tokens, n, keys, wide = counting.tokens, counting.n, counting.keys, counting.wide
    shown_bwd = _shown(counting, "attention_bwd")

    def is_flash(name: str, k: Any, v: Any) -> bool:  # a fused kernel takes one width
        return is_fused(counting.rt, name) and k.shape == v.shape

    def attention_fwd(q: Any, k: Any, v: Any, *first: Any, **options: Any) -> tuple[Any, Any]:
        counting.meter.is_hidden = True
        y, saved = PORTABLE["attention_fwd"](q, k, v, *first, **options)
        y = _as_rows(y) if is_flash("attention_fwd", k, v) else y
        saved = saved._replace(y=y)
        counting.meter.is_hidden = False
        pairs = 2 * wide * keys * k.size // ROWS
        more = counting.remade(k, v) + (pairs if k.itemsize < wide else 0)
        if is_flash("attention_fwd", k, v):  # k and v in blocks
            counting.meter.note(more + pairs + counting.widened(q, y))
        else:  # scores, exponents and probabilities of some queries
            counting.meter.note(more + 3 * min(QUERY_ROWS, tokens) * keys * q.shape[1] * wide)
        return y, saved

    def cached_attention(q: Any, view: Any, sinks: Any = None, **options: Any) -> Any:
        k, v, first, start = gather(view, q.shape[2])
        return attention_fwd(q, k, v, first, sinks, start=start, **options)[0]

    def absorbed_attention(q: Any, view: Any, weight: Any, **options: Any) -> Any:
        latents, (rows, R) = view.latents, weight.shape
        N = q.shape[3] - (latents.shape[3] - R)
        absorbed = counting.meter.count(np.zeros((*q.shape[:3], latents.shape[3]), q.dtype))
        sums = cached_attention(absorbed, KeyView(latents, latents, view.rows), **options)
        y = counting.meter.count(np.zeros((*q.shape[:3], rows // q.shape[1] - N), q.dtype))
        counting.meter.note(counting.widened(absorbed, sums, y) + counting.matrix(weight))
        return y

    def attention_bwd(dy: Any, saved: Any) -> tuple[Any, ...]:
        dq, dk, dv, *_ = shown_bwd(dy, saved)
        if is_flash("attention_bwd", dk, dv):
            counting.meter.is_hidden = True
            dq, dk, dv = (_as_rows(x) for x in (dq, dk, dv))
            counting.meter.is_hidden = False
            counting.meter.note(counting.widened(dy, *saved[:3], saved.y, dq, dk, dv))
        else:  # scores, P, dP and a step between; dq, dk and dv before they are cast
            scores = 4 * min(QUERY_ROWS, tokens) * n * dq.shape[1]
            counting.meter.note((scores + n * (dq.size + dk.size + dv.size) // ROWS) * wide)
        return dq, dk, dv, None, None

    by_hand = (attention_fwd, attention_bwd, cached_attention, absorbed_attention)
    return {op.__name__: op for op in by_hand}


def _shown(counting: Counting, name: str) -> Callable[..., Any]:
    """A kernel that shows its steps, or, where it is fused, its results alone."""
    meter = counting.meter
    kernel, is_own = (PORTABLE | FUSIONS)[name], is_fused(counting.rt, name)

    def call(*args: Any, **options: Any) -> Any:
        meter.is_hidden = is_own or name == "attention_bwd"
        results = kernel(*args, **options)
        if is_own and name in ("rope_fwd", "rope_bwd"):
            results = tuple(_as_rows(x) for x in results)
        meter.is_hidden = False
        if name.endswith("_bwd"):
            results = tuple(None if np.ndim(x) < args[0].ndim else x for x in results)
        meter.note()
        return results

    return call


def _as_rows(x: Any) -> Any:
    """Heads (B, H, T, D) that lie as (B, T, H, D), as fused kernels leave them; other results as they are."""
    if not isinstance(x, np.ndarray) or x.ndim != 4:
        return x
    return x.transpose(0, 2, 1, 3).copy(order="C").transpose(0, 2, 1, 3)

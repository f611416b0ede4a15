"""A whole model: its logits, its loss and gradients, and its replies token by token from a cache.

Three passes, each judged call by call, between the calls, and end to end (`compare`):

    logits    a forward pass without a cache
    training  loss and the gradient of every parameter
    cached    a prompt a row, the second shorter, then one token of each at a time, then a few at once, through the
              key/value cache

The reference of the third is the first's: a cache must change nothing. So it is a fault of the cache, or of what
depends on the position, if every op of the cached pass is right and its logits are not.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from xplm.cache import KVCache
from xplm.config import DecoderConfig
from xplm.models.decoder import forward, param_specs
from xplm.models.head import IGNORE_INDEX
from xplm.models.training import loss_and_grads
from xplm.numerics.parity.check_tables import check_tables
from xplm.numerics.parity.compare import DRAWS, Comparison, Fault, compare
from xplm.numerics.parity.judge import BUG, Verdict
from xplm.numerics.parity.rounded import Numbers
from xplm.numerics.tiny_models import draw_params
from xplm.runtime import Runtime
from xplm.typing import Array, Params

ROWS = 2
PASSES = ("logits", "training", "cached")


class ModelParity(NamedTuple):
    """What comparing a model gave."""

    tables: list[Verdict]  # RoPE's
    passes: dict[str, Comparison]  # by the names of PASSES

    @property
    def faults(self) -> list[Fault]:
        """Everything wrong, the first op at fault first."""
        found = table_faults(self.tables)
        for name, comparison in self.passes.items():
            found += pass_faults(name, comparison)
        return found


def table_faults(tables: list[Verdict]) -> list[Fault]:
    """What is wrong with the RoPE tables."""
    return [Fault("rope tables", f"{v.name}: {v.reason}") for v in tables if v.kind == BUG]


def pass_faults(name: str, comparison: Comparison) -> list[Fault]:
    """What is wrong in one pass; what no op explains there is the cache's in the one pass that has a cache."""
    return comparison.faults("cache" if name == "cached" else f"{name}, end to end")


def check_model(
    test: Runtime,
    reference: Runtime,
    config: DecoderConfig,
    params: Mapping[str, np.ndarray] | None = None,
    *,
    length: int = 9,
    draws: int = DRAWS,
    seed: int = 0,
    passes: Iterable[str] = PASSES,
) -> ModelParity:
    """A model on a small batch, the second row of which is shorter.

    Args:
        test: the runtime under test.
        reference: a float64 runtime.
        config: the model's.
        params: its parameters on the host; None: drawn anew. They are rounded to the test's policy.
        length: tokens to a row, at most.
        draws: as `compare` takes it.
        seed: of parameters, tokens and perturbations.
        passes: of PASSES, those to compare.
    """
    numbers = Numbers(test)
    drawn = draw_params(param_specs(config), seed) if params is None else params
    host = numbers.rounded(drawn, "param")

    rng = np.random.default_rng(seed)
    T = min(length, config.context_length)
    ids = rng.integers(0, config.vocab_size, (ROWS, T))
    targets = rng.integers(0, config.vocab_size, (ROWS, T))
    n_prompt = max(1, T // 2)
    shorter = T // 3 if n_prompt > T // 3 else 0
    counts = np.array([T, T - shorter])
    targets[1, counts[1] :] = IGNORE_INDEX
    targets[0, T // 2] = IGNORE_INDEX
    n_targets = int(np.sum(targets != IGNORE_INDEX))
    scored = np.arange(T)[None, :] < counts[:, None]  # the rest is padding

    def on_device(rt: Runtime, name_params: Any) -> Params:
        params = numbers.put(rt, host, "param")
        name_params(params)
        return params

    def logits(rt: Runtime, name_params: Any) -> dict[str, Array]:
        given = on_device(rt, name_params)
        y = forward(rt, config, given, rt.backend.from_host(ids.copy()))
        return {"logits": _kept(rt, y, scored)}

    def training(rt: Runtime, name_params: Any) -> dict[str, Array]:
        loss, gradients = loss_and_grads(
            rt,
            config,
            on_device(rt, name_params),
            rt.backend.from_host(ids.copy()),
            rt.backend.from_host(targets.copy()),
            n_targets=n_targets,
        )
        return {"loss": loss} | {f"d{name}": array for name, array in gradients.items()}

    def cached(rt: Runtime, name_params: Any) -> dict[str, Array]:
        given, xp = on_device(rt, name_params), rt.backend.xp
        cache = KVCache.allocate(rt, config, ROWS, T)
        begins = [n_prompt, n_prompt - shorter]
        prompts = ids[:, :n_prompt].copy()
        prompts[1, begins[1] :] = prompts[1, 0]
        parts = [(prompts, begins)]
        single, rest = (T - n_prompt) // 2, T - n_prompt
        for span in [*(range(t, t + 1) for t in range(single)), range(single, rest)]:
            if span:
                part = np.take_along_axis(ids, np.add.outer(begins, span), axis=1)
                parts.append((part, [len(span)] * ROWS))
        ends = (T,) * ROWS  # as in the pass without a cache, to which padding is a part of the row
        found = [
            forward(rt, config, given, rt.backend.from_host(part), cache, counts=n, ends=ends)
            for part, n in parts
        ]
        rows = []
        for row in range(ROWS):
            own = [y[row : row + 1, : n[row], :] for y, (_, n) in zip(found, parts, strict=True)]
            rest = xp.zeros_like(found[0][:1, : T - int(counts[row]), :])
            rows.append(xp.concat([*own, rest], axis=1))
        return {"logits": _kept(rt, xp.concat(rows, axis=0), scored)}

    works = {"logits": (logits, None), "training": (training, None), "cached": (cached, logits)}
    compared = {}
    for name in passes:
        work, truth = works[name]
        compared[name] = compare(work, test, reference, truth=truth, draws=draws, seed=seed)
    return ModelParity(check_tables(test, config, T), compared)


def _kept(rt: Runtime, logits: Array, scored: np.ndarray) -> Array:
    """Logits (B, T, V), 0 where there is padding: what a model says there means nothing."""
    xp = rt.backend.xp
    keep = rt.backend.from_host(scored[:, :, None].copy())
    return xp.where(keep, logits, xp.zeros_like(logits))

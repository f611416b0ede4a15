"""How well a model predicts what it was not trained on: loss and accuracy over every scored target."""

from collections.abc import Iterable
from math import exp, nan
from typing import NamedTuple

from xplm.config import DecoderConfig
from xplm.models.decoder import forward
from xplm.models.head import IGNORE_INDEX
from xplm.runtime import Runtime
from xplm.train.data import Batch
from xplm.typing import Params

LOGITS_PER_PASS = 2**24
"""Numbers in a pass's logits: 64 MiB in float32."""


class Evaluation(NamedTuple):
    """What a set of batches came to."""

    loss: float  # mean over the scored targets; NaN without any
    accuracy: float  # share of them that have the highest logit
    n_targets: int  # scored

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return exp(min(self.loss, 700.0))  # what a float can hold


def evaluate(
    rt: Runtime, config: DecoderConfig, params: Params, batches: Iterable[Batch]
) -> Evaluation:
    """Score batches.

    Args:
        rt: backend, kernels and dtypes.
        config: the model's.
        params: its parameters.
        batches: ids and targets, on the host.
    """
    total, right, n_targets = 0.0, 0, 0
    for batch in batches:
        rows = max(1, LOGITS_PER_PASS // (config.vocab_size * batch.ids.shape[1]))
        for begin in range(0, len(batch.ids), rows):
            part = _rows(batch, slice(begin, begin + rows))
            with rt.backend.computing():
                loss, hits = _score(rt, config, params, part)
            total, right = total + loss, right + hits
        n_targets += batch.n_targets
    if n_targets == 0:
        return Evaluation(nan, nan, 0)
    return Evaluation(total / n_targets, right / n_targets, n_targets)


def _rows(batch: Batch, rows: slice) -> Batch:
    return Batch(batch.ids[rows], batch.targets[rows])


def _score(rt: Runtime, config: DecoderConfig, params: Params, batch: Batch) -> tuple[float, int]:
    """The sum of the losses, and how many targets have the highest logit."""
    xp = rt.backend.xp
    ids, targets = rt.backend.from_host(batch.ids), rt.backend.from_host(batch.targets)
    logits = forward(rt, config, params, ids)  # (B, T, V)
    logits = xp.reshape(logits, (-1, config.vocab_size))
    targets = xp.reshape(targets, (-1,))

    losses, _ = rt.ops.cross_entropy_fwd(
        logits, targets, ignore_index=IGNORE_INDEX, island=rt.dtype.loss
    )
    # No logit is IGNORE_INDEX's, so a target that is not scored is never hit.
    hits = xp.argmax(logits, axis=-1) == targets
    n_hits = xp.sum(xp.astype(hits, xp.int32))
    return float(rt.backend.to_host(xp.sum(losses))), int(rt.backend.to_host(n_hits))

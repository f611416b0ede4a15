"""Parity in whole: every op, layer, model and optimizer, as rows that a table, a certificate and a page are made of."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from xplm.config import DecoderConfig
from xplm.numerics.check_layers import LAYERS, VARIANTS
from xplm.numerics.op_cases import OPS
from xplm.numerics.parity.check_layers import check_layer
from xplm.numerics.parity.check_model import check_model, pass_faults, table_faults
from xplm.numerics.parity.check_ops import check_op
from xplm.numerics.parity.check_optimizers import NAMES, check_optimizer
from xplm.numerics.parity.compare import Comparison, Drift, Fault
from xplm.numerics.parity.judge import BUG, Verdict, worst
from xplm.runtime import Runtime

LAYER_DRAWS = 8


class ParityRow(NamedTuple):
    """A line of the table: one tensor, or the worst of several that go by one name."""

    kind: str  # "ops", "layers", "model" or "optimizers"
    name: str  # the op, the layer, the pass, the optimizer
    part: str  # the tensor, or "forward" and "backward"
    n_tensors: int
    verdict: Verdict  # of the worst
    faults: list[Fault]

    @property
    def is_bug(self) -> bool:
        """Whether one of them is."""
        return self.verdict.kind == BUG or bool(self.faults)


class Setting(NamedTuple):
    """What is compared with what."""

    test: Runtime
    reference: Runtime
    config: DecoderConfig  # of the model
    params: Mapping[str, np.ndarray] | None  # its own, on the host; None: drawn anew
    seed: int


class Drifts(NamedTuple):
    """How errors grow through one pass."""

    name: str  # of the pass
    points: list[Drift]


def op_rows(setting: Setting, ops: Iterable[str] = tuple(OPS)) -> Iterator[ParityRow]:
    """Every op, a row each tensor that it returns."""
    for op in ops:
        found = check_op(setting.test, setting.reference, op, seed=setting.seed)
        ways = dict.fromkeys((v.is_backward, v.verdict.name) for v in found)
        for is_backward, name in sorted(ways):
            own = [v for v in found if (v.is_backward, v.verdict.name) == (is_backward, name)]
            way = "backward" if is_backward else "forward"
            faults = [
                Fault(f"{op} {way}", f"{name} ({v.case}): {v.verdict.reason}")
                for v in own
                if v.verdict.kind == BUG
            ]
            yield ParityRow("ops", op, name, len(own), worst([v.verdict for v in own]), faults)


def layer_rows(setting: Setting) -> Iterator[ParityRow]:
    """Every layer under every configuration, a row a layer."""
    for layer in LAYERS:
        comparisons = [
            check_layer(
                setting.test,
                setting.reference,
                layer,
                variant,
                draws=LAYER_DRAWS,
                seed=setting.seed,
            )
            for variant in VARIANTS
        ]
        faults = [fault for c in comparisons for fault in c.faults(f"{layer}, end to end")]
        yield _row("layers", layer, comparisons, faults)


def model_rows(setting: Setting) -> tuple[list[ParityRow], list[Drifts]]:
    """The model: RoPE tables, logits, training and cache; and how errors grow through each pass."""
    model = check_model(
        setting.test, setting.reference, setting.config, setting.params, seed=setting.seed
    )
    rows = [
        ParityRow("model", "rope tables", v.name, 1, v, table_faults([v])) for v in model.tables
    ]
    rows += [
        _row("model", name, [comparison], pass_faults(name, comparison))
        for name, comparison in model.passes.items()
    ]
    return rows, [Drifts(name, c.drifts) for name, c in model.passes.items()]


def optimizer_rows(setting: Setting) -> Iterator[ParityRow]:
    """One step of every optimizer, a row each."""
    for name in NAMES:
        found = check_optimizer(
            setting.test, setting.reference, name, setting.config, seed=setting.seed
        )
        faults = [Fault(f"{name} step", f"{v.name} {v.reason}") for v in found if v.kind == BUG]
        yield ParityRow("optimizers", name, "step", len(found), worst(found), faults)


def first_fault(rows: Sequence[ParityRow]) -> Fault | None:
    """The first thing wrong: an op alone before a layer, a layer before a model."""
    return next((fault for row in rows for fault in row.faults), None)


def _row(kind: str, name: str, comparisons: list[Comparison], faults: list[Fault]) -> ParityRow:
    results = [v for c in comparisons for v in c.results]
    inner = [v for c in comparisons for call in c.calls for v in call.verdicts]
    worst_result = worst(results)
    return ParityRow(kind, name, worst_result.name, len(results) + len(inner), worst_result, faults)

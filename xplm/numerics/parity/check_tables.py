"""The cosines and sines that turn queries and keys, against their definition.

    cos, sin (position * inv_freq) * scale         at every position, in the policy's island dtype

A product of two rounded factors is off by (1 + u)^3 - 1 of the angle, so an angle of 16,000 radians in float32 is off
by 0.003 and the table with it: |cos a' - cos a| <= |a' - a|. What a policy's format cannot do is no bug; a table that
is coarser than its format is.
"""

import numpy as np

from xplm.config import DecoderConfig
from xplm.layers.context import RopeTables
from xplm.models.decoder import make_context
from xplm.numerics.parity.bounds import FUNCTION_ULPS, Arithmetic, Ball
from xplm.numerics.parity.expected import Expected
from xplm.numerics.parity.judge import Verdict, judge
from xplm.numerics.parity.rounded import formats_of, to_host
from xplm.rope_scaling import inverse_frequencies
from xplm.runtime import Runtime
from xplm.specs import RopeSpec


@np.errstate(all="ignore")
def check_tables(
    test: Runtime, config: DecoderConfig, T: int, first: np.ndarray | None = None
) -> list[Verdict]:
    """The tables of T positions from 0 on, of each kind of RoPE that the configuration has: "cos" and "sin".

    Args:
        test: the runtime under test.
        config: the model's.
        T: positions.
        first: for each row the slot that its sequence begins in (B,); None: slot 0.
    """
    context = make_context(test, config, T, first=first)
    begins = np.zeros(1, np.int64) if first is None else first
    return [
        verdict
        for rope in config.ropes
        for verdict in _check_rope(test, rope, context.ropes[rope], T, begins)
    ]


def _check_rope(
    test: Runtime, rope: RopeSpec, tables: RopeTables, T: int, begins: np.ndarray
) -> list[Verdict]:
    angles: list[np.ndarray] = []
    scales: list[float] = []
    for begin in begins:
        inv_freq, scale = inverse_frequencies(rope, length=T - int(begin))
        positions = np.maximum(np.arange(T) - begin, 0)
        angles.append(positions[None, :, None] * inv_freq)
        scales.append(scale)
    angle = np.stack(angles)  # (B, 1, T, D/2)
    stretch = np.asarray(scales)[:, None, None, None]

    w = Arithmetic(formats_of(test).rope)
    off = w.gamma(3) * np.abs(angle) + w.eta
    verdicts = []
    for name, function, array in (("cos", np.cos, tables.cos), ("sin", np.sin, tables.sin)):
        value = w.rounded(function(angle), np.minimum(off, 2.0), FUNCTION_ULPS)
        ball = w.times(value, Ball(stretch, w.u * np.abs(stretch)))
        table = to_host(test, array)
        mid, rad = (np.broadcast_to(part, table.shape) for part in ball)
        verdicts.append(judge(name, table, Expected(Ball(mid, rad), w.dtype)))
    return verdicts

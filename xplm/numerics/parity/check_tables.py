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
def check_tables(test: Runtime, config: DecoderConfig, T: int) -> list[Verdict]:
    """The tables of T positions from 0 on, of each kind of RoPE that the configuration has: "cos" and "sin".

    Args:
        test: the runtime under test.
        config: the model's.
        T: positions.
    """
    ropes = make_context(test, config, T).ropes
    return [
        verdict for rope, tables in ropes.items() for verdict in _check_rope(test, rope, tables, T)
    ]


def _check_rope(test: Runtime, rope: RopeSpec, tables: RopeTables, T: int) -> list[Verdict]:
    inv_freq, scale = inverse_frequencies(rope, length=T)
    angle = np.arange(T)[None, None, :, None] * inv_freq  # (1, 1, T, dim/2)
    stretch = np.full((1, 1, 1, 1), scale)

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

"""Layers of two types, full and sliding, each with a RoPE of its own, as config.json gives them, and back."""

from dataclasses import dataclass, replace
from typing import Any

from xplm.config import DecoderConfig
from xplm.models.families.blocks import head_width
from xplm.models.families.fields import Fields
from xplm.models.families.rope import read_ropes_by_type, write_ropes_by_type
from xplm.models.families.windows import FULL, SLIDING, read_windows_by_pattern
from xplm.models.families.windows import write_windows_by_layer_type as write_windows
from xplm.specs import BlockSpec, RopeSpec


@dataclass(frozen=True)
class LayerTypes:
    """What a family takes where config.json leaves it out."""

    period: int  # of the layers 1, 2, ... those that it divides are full, the others sliding
    full_theta: float
    sliding_theta: float

    def read(self, hf: Fields, block: BlockSpec, local: str = "") -> tuple[BlockSpec, ...]:
        """The block, once a layer, with the window and the RoPE of its type.

        Args:
            hf: the config.json.
            block: what all layers have in common.
            local: the key of the sliding layers' theta in the older spelling; "" if there is none.
        """
        if hf.get("sliding_window_pattern") is None:
            hf = hf.but(sliding_window_pattern=self.period)
        sliding_theta = hf.number(local, self.sliding_theta) if local else self.sliding_theta
        full_theta = hf.number("rope_theta", self.full_theta)
        ropes = read_ropes_by_type(
            hf, head_width(hf), full_theta=full_theta, sliding_theta=sliding_theta
        )
        return tuple(
            replace(
                block,
                mixer=replace(block.mixer, window=w, rope=ropes[SLIDING if w else FULL]),
            )
            for w in read_windows_by_pattern(hf)
        )

    def ropes(self, config: DecoderConfig) -> tuple[RopeSpec, RopeSpec]:
        """Those of full and of sliding layers; of a type without layers the family's own."""
        mixers = [block.mixer for block in config.blocks]
        plain = RopeSpec(
            dim=mixers[0].head_dim, max_position_embeddings=config.max_position_embeddings
        )
        full = replace(plain, rope_theta=self.full_theta)
        sliding = replace(plain, rope_theta=self.sliding_theta)
        return (
            next((m.rope for m in mixers if m.window is None and m.rope), full),
            next((m.rope for m in mixers if m.window is not None and m.rope), sliding),
        )

    def write(self, config: DecoderConfig) -> dict[str, Any]:
        """The keys that windows and RoPE are read from."""
        return write_ropes_by_type(*self.ropes(config)) | write_windows(config.blocks)

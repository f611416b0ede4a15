"""The least model of a family: one pass through it brings in all the code that a pass through a large one runs.

Its own arrays are nothing beside the code: what the process holds after it is what it takes for itself.
"""

from dataclasses import replace

from xplm.config import DecoderConfig
from xplm.specs import RopeSpec

POSITIONS = 32
"""Tokens that it reads at most: enough for products that are not those of decoding."""


HEAD_DIM = 8


def miniature(config: DecoderConfig) -> DecoderConfig:
    """The configuration with all of its flags and the least of its sizes."""
    block = config.blocks[0]
    is_grouped = block.mixer.num_key_value_heads < block.mixer.num_heads
    rope = block.mixer.rope
    mixer = replace(
        block.mixer,
        num_heads=2,
        num_key_value_heads=1 if is_grouped else 2,
        head_dim=HEAD_DIM,
        value_dim=HEAD_DIM,
        rope=rope and _miniature_rope(rope, rope.dim == block.mixer.head_dim),
    )
    return replace(
        config,
        vocab_size=16,
        hidden_size=2 * HEAD_DIM,
        max_position_embeddings=POSITIONS,
        blocks=(replace(block, mixer=mixer, mlp=replace(block.mlp, intermediate_size=16)),),
    )


def _miniature_rope(rope: RopeSpec, is_of_whole_heads: bool) -> RopeSpec:
    dim = HEAD_DIM if is_of_whole_heads else HEAD_DIM // 2
    factors = (1.0,) * (dim // 2) if rope.rope_type == "longrope" else ()
    return replace(
        rope,
        dim=dim,
        max_position_embeddings=POSITIONS,
        short_factor=factors,
        long_factor=factors,
    )

"""The least model of a family: one pass through it brings in all the code that a pass through a large one runs.

Its own arrays are nothing beside the code: what the process holds after it is what it takes for itself.
"""

from dataclasses import replace

from xplm.config import DecoderConfig
from xplm.specs import LatentAttentionSpec, MixerSpec, RopeSpec

POSITIONS = 32
"""Tokens that it reads at most: enough for products that are not those of decoding."""


HEAD_DIM = 8


def miniature(config: DecoderConfig) -> DecoderConfig:
    """The configuration with all of its flags and the least of its sizes."""
    block = config.blocks[0]
    mlp = replace(block.mlp, intermediate_size=16)
    return replace(
        config,
        vocab_size=16,
        hidden_size=2 * HEAD_DIM,
        max_position_embeddings=POSITIONS,
        blocks=(replace(block, mixer=_least_mixer(block.mixer), mlp=mlp),),
    )


def _least_mixer(mixer: MixerSpec) -> MixerSpec:
    if isinstance(mixer, LatentAttentionSpec):
        return replace(
            mixer,
            num_heads=2,
            q_rank=mixer.q_rank and HEAD_DIM,
            kv_rank=HEAD_DIM,
            nope_dim=HEAD_DIM,
            value_dim=HEAD_DIM,
            rope=_least_rope(mixer.rope, HEAD_DIM),
        )
    is_grouped = mixer.num_key_value_heads < mixer.num_heads
    rope = mixer.rope
    dim = HEAD_DIM if rope and rope.dim == mixer.head_dim else HEAD_DIM // 2
    return replace(
        mixer,
        num_heads=2,
        num_key_value_heads=1 if is_grouped else 2,
        head_dim=HEAD_DIM,
        value_dim=HEAD_DIM,
        rope=rope and _least_rope(rope, dim),
    )


def _least_rope(rope: RopeSpec, dim: int) -> RopeSpec:
    factors = (1.0,) * (dim // 2) if rope.rope_type == "longrope" else ()
    return replace(
        rope,
        dim=dim,
        max_position_embeddings=POSITIONS,
        short_factor=factors,
        long_factor=factors,
    )

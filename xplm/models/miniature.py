"""The least model of a family: one pass through it brings in all the code that a pass through a large one runs.

Its own arrays are nothing beside the code: what the process holds after it is what it takes for itself.
"""

from dataclasses import replace

from xplm.config import DecoderConfig

POSITIONS = 32
"""Tokens that it reads at most: enough for products that are not those of decoding."""


def miniature(config: DecoderConfig) -> DecoderConfig:
    """The configuration with all of its flags and the least of its sizes."""
    is_grouped = config.num_key_value_heads < config.num_attention_heads
    return replace(
        config,
        vocab_size=16,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1 if is_grouped else 2,
        head_dim=8,
        max_position_embeddings=POSITIONS,
        windows=config.windows[:1],
    )

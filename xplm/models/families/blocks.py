"""Blocks that several families have."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from xplm.errors import ConfigError
from xplm.models.families.activations import read_mlp
from xplm.models.families.fields import Fields
from xplm.models.families.rope import read_rope
from xplm.specs import AttentionSpec, BlockSpec, RMSNormSpec


def head_width(hf: Fields) -> int:
    """D: `head_dim`, or a head's share of the width."""
    return hf.integer("head_dim", hf.integer("hidden_size") // hf.integer("num_attention_heads"))


def require_shared_width(hf: Fields) -> int:
    """D of heads that share the model's width.

    Raises:
        ConfigError: they do not, or `head_dim` says another.
    """
    heads, width = hf.integer("num_attention_heads"), hf.integer("hidden_size")
    if width % heads or head_width(hf) != width // heads:
        raise ConfigError(
            f"the heads of a {hf.get('model_type')} share its width of {width}; got {heads} heads "
            f"of {head_width(hf)}"
        )
    return width // heads


def read_attention(hf: Fields, **facts: Any) -> AttentionSpec:
    """Attention of the heads that config.json gives, its scores divided by sqrt(D).

    Args:
        hf: the config.json.
        facts: the family's fields of an AttentionSpec.
    """
    heads, D = hf.integer("num_attention_heads"), head_width(hf)
    return AttentionSpec(
        num_heads=heads,
        head_dim=D,
        value_dim=D,
        **{
            "num_key_value_heads": hf.integer("num_key_value_heads", heads),
            "scale": D**-0.5,
            **facts,
        },
    )


def read_llama_block(
    hf: Fields, *, is_gated: bool = True, mlp_bias: bool = False, **facts: Any
) -> BlockSpec:
    """RMSNorm, rotated attention and an MLP, in sequence.

    Args:
        hf: the config.json.
        is_gated: whether the MLP is.
        mlp_bias: whether the MLP's matrices have a bias.
        facts: fields of the AttentionSpec: `qkv_bias`, `output_bias` and what else the family differs in; `rope` if it
            is not that of whole heads, halves as pairs.
    """
    norm = RMSNormSpec(hf.number("rms_norm_eps", 1e-6))
    rope = facts.pop("rope") if "rope" in facts else read_rope(hf, head_width(hf))
    attention = read_attention(hf, rope=rope, **facts)
    mlp = read_mlp(hf, is_gated=is_gated, bias=mlp_bias)
    return BlockSpec(attention, mlp, norm, norm)


def in_all_layers(hf: Fields, block: BlockSpec) -> tuple[BlockSpec, ...]:
    """The block, once a layer."""
    return (block,) * hf.integer("num_hidden_layers")


def with_windows(block: BlockSpec, windows: Sequence[int | None]) -> tuple[BlockSpec, ...]:
    """The block, once for each window."""
    return tuple(replace(block, mixer=replace(block.mixer, window=w)) for w in windows)


def with_rope_in_windows(block: BlockSpec, windows: Sequence[int | None]) -> tuple[BlockSpec, ...]:
    """The block, once for each window; without a window it is not rotated."""
    return tuple(
        own if own.mixer.window else replace(own, mixer=replace(own.mixer, rope=None))
        for own in with_windows(block, windows)
    )

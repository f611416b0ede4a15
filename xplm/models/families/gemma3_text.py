"""Gemma 3's text model: Gemma 2's block with norms of q and k and no cap of scores; five of six layers have a window,
and those have a theta of their own and no scaled RoPE.

transformers: models/gemma3
"""

from typing import Any

from xplm.config import DecoderConfig
from xplm.models.families.family import Family
from xplm.models.families.fields import Fields
from xplm.models.families.gemma2 import (
    DEFAULTS,
    GGUF_MODULES,
    KEYS,
    MODULES,
    SCORE_CAP,
    read_block,
    read_norm,
    read_scalar,
    read_scales,
    write_facts,
)
from xplm.models.families.gguf import (
    PATTERN,
    WINDOW,
    GGUFFile,
    GGUFLayout,
    read_windows_by_layer,
    write_windows_by_layer,
)
from xplm.models.families.layer_types import LayerTypes
from xplm.specs import BlockSpec, RopeSpec

LOCAL_THETA, GGUF_LOCAL_THETA = "rope_local_base_freq", "rope.freq_base_swa"
TYPES = LayerTypes(period=6, full_theta=1e6, sliding_theta=1e4)


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    return TYPES.read(hf, read_block(hf, rope=None, qk_norm=read_norm(hf)), LOCAL_THETA)


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    local = {LOCAL_THETA: TYPES.ropes(config)[1].rope_theta}
    return TYPES.write(config) | write_facts(config) | local


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """The windows, the theta of the layers that have one, and the scale of scores."""
    return {
        **read_windows_by_layer(file, period=6),
        LOCAL_THETA: file.number(GGUF_LOCAL_THETA, 1e4),
        **read_scalar(file, largest=62),
    }


def write_gguf(config: DecoderConfig) -> dict[str, Any]:
    """The window, of all layers but every sixth, and their theta."""
    window = write_windows_by_layer(config)[WINDOW]
    return {WINDOW: window, GGUF_LOCAL_THETA: TYPES.ropes(config)[1].rope_theta}


def full_rope(config: DecoderConfig) -> RopeSpec:
    """That of the full layers, which the keys of all architectures hold."""
    return TYPES.ropes(config)[0]


GEMMA3_TEXT = Family(
    "gemma3_text",
    "Gemma3ForCausalLM",
    keys=(*KEYS, LOCAL_THETA, "sliding_window_pattern"),
    norm_eps_key="rms_norm_eps",
    hidden_act="gelu_pytorch_tanh",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    read_scales=read_scales,
    inert=(
        "cache_implementation",
        "_sliding_window_pattern",  # as layer_types say it
        SCORE_CAP,  # transformers does not apply it
    ),
    spelling={"hidden_act": "hidden_activation"},
    defaults=DEFAULTS | {"max_position_embeddings": 131_072},
    modules=MODULES,
    gguf=(
        GGUFLayout(
            "gemma3",
            keys=(WINDOW, PATTERN, GGUF_LOCAL_THETA),
            read=read_gguf,
            write=write_gguf,
            rope=full_rope,
            modules=GGUF_MODULES
            | {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"},
            norm_offset=1.0,
        ),
    ),
)

"""OLMo 3: OLMo 2's block, with a window in all but every fourth layer; a scaled RoPE is the full layers' alone.

transformers: models/olmo3
"""

from typing import Any

from xplm.config import DecoderConfig
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import (
    PATTERN,
    WINDOW,
    GGUFFile,
    GGUFLayout,
    read_windows_by_layer,
    write_windows_by_layer,
)
from xplm.models.families.layer_types import LayerTypes
from xplm.models.families.olmo2 import DEFAULTS, GGUF_MODULES, MODULES, read_block
from xplm.models.families.windows import SLIDING
from xplm.specs import BlockSpec, RopeSpec

TYPES = LayerTypes(period=4, full_theta=500_000.0, sliding_theta=500_000.0)


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json. A `rope_theta` beside the parameters is the full layers'."""
    return TYPES.read(hf.but(sliding_window_pattern=None), read_block(hf, rope=None))


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    return TYPES.write(config) | {"attention_bias": config.blocks[0].mixer.qkv_bias}


def claims(file: GGUFFile) -> bool:
    """A file of the architecture that has a window."""
    return file.integer(WINDOW, 0) > 0


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """The windows; all layers have one theta, and the sliding ones are not scaled."""
    sliding = {"rope_type": "default", "rope_theta": file.number("rope.freq_base", 10000.0)}
    return read_windows_by_layer(file) | {"rope_parameters": {SLIDING: sliding}}


def write_gguf(config: DecoderConfig) -> dict[str, Any]:
    """The window, of all layers but every fourth."""
    return {WINDOW: write_windows_by_layer(config)[WINDOW]}


def full_rope(config: DecoderConfig) -> RopeSpec:
    """That of the full layers, which the keys of all architectures hold."""
    return TYPES.ropes(config)[0]


OLMO3 = Family(
    "olmo3",
    "Olmo3ForCausalLM",
    keys=(*COMMON, *SIZES, *ROPE, "rms_norm_eps", "attention_bias", "sliding_window"),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    defaults=DEFAULTS | {"sliding_window": 4096},
    modules=MODULES,
    gguf=(
        GGUFLayout(
            "olmo2",
            claims=claims,
            keys=(WINDOW, PATTERN),
            read=read_gguf,
            write=write_gguf,
            rope=full_rope,
            modules=GGUF_MODULES,
        ),
    ),
)

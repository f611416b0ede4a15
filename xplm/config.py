"""A decoder's configuration, read from Hugging Face's config.json and validated.

Fields keep Hugging Face's names. What a family's config.json leaves unsaid, and which of its keys are read, stands in
`xplm.families`.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from reprlib import repr as shown  # a value of any length, cut short
from typing import Any

from xplm.errors import ConfigError, RequestError
from xplm.families import FAMILIES, Family, check_keys
from xplm.rope_scaling import READ_BY, ROPE_TYPES, RopeConfig, stretched_context

_log = logging.getLogger(__name__)

MAX_INT = 2**31 - 1  # of every field
MAX_LAYERS = 10_000


@dataclass(frozen=True)
class DecoderConfig:
    """Everything that decides a decoder's shapes and arithmetic."""

    model_type: str
    """The family, as config.json names it."""
    vocab_size: int
    """V, rows of the embedding."""
    hidden_size: int
    """C, width of the residual stream."""
    intermediate_size: int
    """F, width of the MLP."""
    num_hidden_layers: int
    """L, blocks."""
    num_attention_heads: int
    """H, query heads."""
    num_key_value_heads: int
    """K, key/value heads."""
    head_dim: int
    """D, width of a head."""
    max_position_embeddings: int
    """Positions."""
    norm: str
    """"rms_norm" or "layer_norm"."""
    norm_eps: float
    """Added to the mean square, or to the variance."""
    activation: str
    """Of the MLP: "swiglu" or "gelu"."""
    rope: RopeConfig | None
    """None: positions are learned."""
    attention_bias: bool
    """Whether q, k and v have a bias."""
    output_bias: bool
    """Whether o has a bias."""
    mlp_bias: bool
    """Whether the MLP's matrices have a bias."""
    tie_word_embeddings: bool
    """Whether the embedding is the head too."""
    windows: tuple[int | None, ...]
    """One a layer: the keys it sees, None for all."""
    scale_attn_weights: bool = True
    """Scores are divided by sqrt(head_dim)."""
    scale_attn_by_inverse_layer_idx: bool = False
    """And by the layer's number, from 1."""
    initializer_range: float = 0.02
    """Standard deviation of initial weights."""
    bos_token_id: int | None = None
    """Begins a text."""
    eos_token_id: tuple[int, ...] = ()
    """Each ends a text."""
    pad_token_id: int | None = None
    """Fills up a batch."""
    context: int | None = None
    """Positions of a sequence, asked for; None: what the rest says."""

    @property
    def context_length(self) -> int:
        """The most positions a sequence may have, stretched RoPE included."""
        if self.context is not None:
            return self.context
        if self.rope is None:
            return self.max_position_embeddings
        return stretched_context(self.rope, self.max_position_embeddings)

    def with_context(self, context: int) -> "DecoderConfig":
        """The same decoder, whose sequences have at most `context` positions.

        Raises:
            RequestError: it is not a positive integer, or above the positions that the model has learned.
        """
        if isinstance(context, bool) or not isinstance(context, int) or context < 1:
            raise RequestError(
                f"a context must be a positive number of tokens; got {shown(context)}"
            )
        own = replace(self, context=None).context_length
        if context > own and self.rope is None:
            raise RequestError(
                f"a context must be at most the {own} positions that this model has learned; got {context}"
            )
        if context > own:
            _log.warning(
                "a context of %d is above the %d positions that this model's configuration gives it; "
                "what it says beyond those may be poor",
                context,
                own,
            )
        return replace(self, context=context)

    def attention_scale(self, layer: int) -> float:
        """The factor of a layer's attention scores, q k^T."""
        scale = self.head_dim**-0.5 if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "DecoderConfig":
        """Read the contents of a config.json.

        Args:
            hf: the parsed JSON object, with RoPE spelled as `rope_theta` + `rope_scaling` or as `rope_parameters`.

        Raises:
            ConfigError: a field is missing, has the wrong type, contradicts another, or is not supported.
        """
        model_type = hf.get("model_type")
        if not isinstance(model_type, str) or model_type not in FAMILIES:
            raise ConfigError(
                f"model_type is one of {', '.join(FAMILIES)}; got {shown(model_type)}"
            )
        family = FAMILIES[model_type]
        check_keys(hf, model_type)
        hf = {**family.defaults, **_without_aliases(hf, family)}
        hf = {**hf, **{ours: hf.get(theirs) for ours, theirs in family.spelling.items()}}
        if (hf.get("hidden_act") or family.hidden_acts[0]) not in family.hidden_acts:
            raise ConfigError(
                f"hidden_act of a {model_type} is {family.hidden_acts[0]}; got {shown(hf['hidden_act'])}"
            )

        hidden_size = _positive_int(hf, "hidden_size")
        heads = _positive_int(hf, "num_attention_heads")
        layers = _positive_int(hf, "num_hidden_layers", at_most=MAX_LAYERS)
        max_positions = _positive_int(hf, "max_position_embeddings", 2048)
        # Four times the width is GPT-2's rule for a width that its config leaves out.
        inner = 4 * hidden_size if model_type == "gpt2" else None

        config = cls(
            model_type=model_type,
            vocab_size=_positive_int(hf, "vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=_positive_int(hf, "intermediate_size", inner),
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=_positive_int(hf, "num_key_value_heads", heads),
            head_dim=_positive_int(hf, "head_dim", hidden_size // heads),
            max_position_embeddings=max_positions,
            norm=family.norm,
            norm_eps=_positive_float(
                hf, family.norm_eps_key, family.defaults.get(family.norm_eps_key, 1e-6)
            ),
            activation=family.activation,
            rope=_rope(hf, max_positions) if family.position == "rope" else None,
            attention_bias=_flag(hf, family.attention_bias),
            output_bias=_flag(hf, family.output_bias),
            mlp_bias=_flag(hf, family.mlp_bias),
            tie_word_embeddings=_flag(hf, "tie_word_embeddings"),
            windows=_windows(hf, family, layers),
            scale_attn_weights=_scale_flag(hf, family, "scale_attn_weights", True),
            scale_attn_by_inverse_layer_idx=_scale_flag(
                hf, family, "scale_attn_by_inverse_layer_idx", False
            ),
            initializer_range=_positive_float(hf, "initializer_range", 0.02),
            bos_token_id=_token_id(hf, "bos_token_id"),
            eos_token_id=_token_ids(hf, "eos_token_id"),
            pad_token_id=_token_id(hf, "pad_token_id"),
        )
        if heads % config.num_key_value_heads:
            raise ConfigError(
                "num_attention_heads is a multiple of num_key_value_heads; "
                f"got {heads} and {config.num_key_value_heads}"
            )
        if model_type == "gpt2" and config.head_dim * heads != hidden_size:
            raise ConfigError(
                f"the heads of a gpt2 share its width of {hidden_size}; got {heads} heads of {config.head_dim}"
            )
        if config.rope and config.head_dim % 2:
            raise ConfigError(f"head_dim is even, for RoPE turns pairs; got {config.head_dim}")
        if config.rope and config.rope.rope_type == "dynamic" and config.head_dim == 2:
            raise ConfigError("dynamic RoPE needs a head_dim above 2; got 2")
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json that transformers reads this model with."""
        family = FAMILIES[self.model_type]
        eos = list(self.eos_token_id)
        hf: dict[str, Any] = {
            "architectures": [family.architecture],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_position_embeddings,
            "hidden_act": family.hidden_acts[0],
            family.norm_eps_key: self.norm_eps,
            "tie_word_embeddings": self.tie_word_embeddings,
            "initializer_range": self.initializer_range,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
            "pad_token_id": self.pad_token_id,
        }
        biases = (
            (family.attention_bias, self.attention_bias),
            (family.output_bias, self.output_bias),
            (family.mlp_bias, self.mlp_bias),
        )
        hf |= {key: value for key, value in biases if isinstance(key, str)}
        if self.rope is not None:
            hf |= _rope_to_hf(self.rope)
        if family.has_window:
            hf |= _windows_to_hf(self.windows, family)
        if family.has_attention_scales:
            hf["scale_attn_weights"] = self.scale_attn_weights
            hf["scale_attn_by_inverse_layer_idx"] = self.scale_attn_by_inverse_layer_idx
        return {family.spelling.get(key, key): value for key, value in hf.items()}


def _without_aliases(hf: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """Keys that transformers takes for the family's, under the family's names."""
    own = dict(hf)
    for alias in family.aliases:
        key = family.spelling[alias]
        value = own.pop(alias, None)
        if value is not None and own.setdefault(key, value) != value:
            raise ConfigError(f"{alias} is {key} here; got {shown(value)} and {shown(own[key])}")
    return own


def _rope(hf: Mapping[str, Any], max_positions: int) -> RopeConfig:
    """Both spellings: rope_parameters, or rope_theta beside rope_scaling (its type was once "type"), which wins."""
    given = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"rope_parameters is an object; got {shown(given)}")
    if nested := [key for key, value in given.items() if isinstance(value, Mapping)]:
        raise ConfigError(f"all layers share their RoPE here; got one each for {shown(nested)}")
    rope_type = given.get("rope_type", given.get("type", "default"))
    if not isinstance(rope_type, str) or rope_type not in ROPE_TYPES:
        raise ConfigError(f"rope_type is one of {', '.join(ROPE_TYPES)}; got {shown(rope_type)}")
    if given.get("partial_rotary_factor") not in (None, 1.0):
        raise ConfigError("RoPE turns whole heads here; got a partial_rotary_factor that is not 1")

    theta = given.get("rope_theta", hf.get("rope_theta"))
    known: dict[str, Any] = {
        "rope_theta": theta,
        **{k: v for k, v in given.items() if v is not None},
    }
    key = "original_max_position_embeddings"
    numbers = {
        name: _positive_float(known, name)
        for name in ("rope_theta", *READ_BY.get(rope_type, ()))
        if name not in ("truncate", key) and known.get(name) is not None
    }
    lengths = known if hf.get(key) is None else hf  # the order in which transformers looks
    is_given = rope_type != "default" and lengths.get(key) is not None
    trained = None
    if is_given or rope_type in ("yarn", "llama3"):
        trained = _positive_int(lengths, key, max_positions)
    rope = RopeConfig(
        rope_type=rope_type,
        original_max_position_embeddings=trained,
        truncate=bool(given.get("truncate", True)),
        **numbers,
    )
    if rope_type != "default" and "factor" not in numbers:
        raise ConfigError(f'RoPE type "{rope_type}" needs a factor; rope_parameters has none')
    if rope.rope_theta <= 1.0:
        raise ConfigError(f"rope_theta is above 1; got {rope.rope_theta}")
    if rope.high_freq_factor <= rope.low_freq_factor:
        raise ConfigError(
            "high_freq_factor is above low_freq_factor; "
            f"got {rope.high_freq_factor} and {rope.low_freq_factor}"
        )
    return rope


def _windows(hf: Mapping[str, Any], family: Family, layers: int) -> tuple[int | None, ...]:
    on = family.has_window and hf.get("sliding_window") is not None
    if family.window_switch and not _flag(hf, family.window_switch):
        on = False
    kinds = hf.get("layer_types")
    if kinds is not None:
        if not isinstance(kinds, list) or len(kinds) != layers:
            raise ConfigError(f"layer_types names each of the {layers} layers; got {shown(kinds)}")
        if odd := [kind for kind in kinds if kind not in ("full_attention", "sliding_attention")]:
            raise ConfigError(f"layer_types are full_ or sliding_attention; got {shown(odd[0])}")
    if kinds is not None and not family.has_layer_types:
        kind = "sliding_attention" if on else "full_attention"
        if odd := [other for other in kinds if other != kind]:
            raise ConfigError(
                f"layer_types of this {hf['model_type']} are {kind}, as its class in transformers has them; "
                f"got {shown(odd[0])}"
            )
        kinds = None
    if not on:
        return (None,) * layers

    window = _positive_int(hf, "sliding_window")
    if kinds is not None:
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    begin = hf.get(family.windowed_from) if family.windowed_from else 0
    if isinstance(begin, bool) or not isinstance(begin, int) or begin < 0:
        raise ConfigError(f"{family.windowed_from} is a number of layers; got {shown(begin)}")
    return tuple(window if layer >= begin else None for layer in range(layers))


def _windows_to_hf(windows: tuple[int | None, ...], family: Family) -> dict[str, Any]:
    window = next((w for w in windows if w is not None), None)
    hf: dict[str, Any] = {"sliding_window": window}
    if family.window_switch:
        hf[family.window_switch] = window is not None
        hf["layer_types"] = ["sliding_attention" if w else "full_attention" for w in windows]
    return hf


def _rope_to_hf(rope: RopeConfig) -> dict[str, Any]:
    default = asdict(RopeConfig())
    always = {"rope_type", "rope_theta"}
    if rope.rope_type == "llama3":
        always |= {"low_freq_factor", "high_freq_factor"}
    given = {k: v for k, v in asdict(rope).items() if k in always or v != default[k]}
    return {
        "rope_parameters": given,
        # Older readers know this spelling only.
        "rope_theta": rope.rope_theta,
        "rope_scaling": None if rope.rope_type == "default" else given,
    }


def _positive_int(
    hf: Mapping[str, Any], key: str, default: int | None = None, at_most: int = MAX_INT
) -> int:
    value = hf.get(key)
    value = default if value is None else value
    if value is None:
        raise ConfigError(f"config.json must give {key}; it is missing")
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{key} is a positive integer; got {shown(value)}")
    if value > at_most:
        raise ConfigError(f"{key} is at most {at_most}; got {shown(value)}")
    return value


def _positive_float(hf: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = hf.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1e-30 < value < 1e30:
        raise ConfigError(f"{key} is a positive number; got {shown(value)}")
    return float(value)


def _flag(hf: Mapping[str, Any], key: bool | str) -> bool:
    if isinstance(key, bool):
        return key
    value = hf.get(key)
    value = False if value is None else value
    if not isinstance(value, bool):
        raise ConfigError(f"{key} is true or false; got {shown(value)}")
    return value


def _scale_flag(hf: Mapping[str, Any], family: Family, key: str, default: bool) -> bool:
    if not family.has_attention_scales or hf.get(key) is None:
        return default
    return _flag(hf, key)


def _token_id(hf: Mapping[str, Any], key: str) -> int | None:
    ids = _token_ids(hf, key)
    return ids[0] if ids else None


def _token_ids(hf: Mapping[str, Any], key: str) -> tuple[int, ...]:
    value = hf.get(key)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) and i <= MAX_INT for i in ids):
        raise ConfigError(f"{key} is a token id or a list of them; got {shown(value)}")
    return tuple(i for i in ids if i >= 0)

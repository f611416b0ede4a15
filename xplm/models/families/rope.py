"""Rotary positions of a config.json, in both of Hugging Face's spellings, and back."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from reprlib import repr as shown  # a value of any length, cut short
from typing import Any

from xplm.errors import ConfigError
from xplm.kernels.rope import HALVES
from xplm.models.families.fields import Fields
from xplm.models.families.windows import FULL, SLIDING
from xplm.rope_scaling import READ_BY, ROPE_TYPES
from xplm.specs import RopeSpec

NOT_IN_JSON = ("dim", "max_position_embeddings", "pairs")
"""Fields of a RopeSpec that config.json has elsewhere, or not at all."""

TRAINED_LENGTH = "original_max_position_embeddings"
FACTORS = ("short_factor", "long_factor")  # of longrope, lists


def read_rope(hf: Fields, head_dim: int, share: float = 1.0, *, pairs: str = HALVES) -> RopeSpec:
    """Either `rope_parameters`, or `rope_theta` beside `rope_scaling` (its type was once "type"), which wins.

    Args:
        hf: the config.json.
        head_dim: D.
        share: of a head that is rotated. A `partial_rotary_factor` among the parameters must agree.
        pairs: the features that are rotated together.

    Raises:
        ConfigError: a parameter is missing or out of range, or asks for what xplm does not have.
    """
    given = _mapping(hf.get("rope_scaling") or hf.get("rope_parameters") or {})
    if nested := [key for key, value in given.items() if isinstance(value, Mapping)]:
        raise ConfigError(f"all layers share their RoPE here; got one each for {shown(nested)}")
    return _read(hf, given, head_dim, share, pairs, hf.number("rope_theta", 10000.0))


def read_ropes_by_type(
    hf: Fields, head_dim: int, *, full_theta: float, sliding_theta: float
) -> dict[str, RopeSpec]:
    """RoPE of the full and of the sliding layers, by layer type: `rope_parameters` has one object for each.

    A `rope_scaling` adds to the full layers' parameters.

    Args:
        hf: the config.json.
        head_dim: D.
        full_theta: of full layers, where their parameters give none: the older spelling's, or the family's.
        sliding_theta: likewise.

    Raises:
        ConfigError: as `read_rope`'s.
    """
    nested = _mapping(hf.get("rope_parameters") or {})
    given = {kind: _mapping(nested.get(kind) or {}) for kind in (FULL, SLIDING)}
    if nested and not any(given.values()):
        raise ConfigError(
            f"rope_parameters has an object for {FULL} and one for {SLIDING}; got {shown(nested)}"
        )
    given[FULL] = {**given[FULL], **_mapping(hf.get("rope_scaling") or {})}
    inner = Fields({"max_position_embeddings": hf.get("max_position_embeddings")})
    thetas = {FULL: full_theta, SLIDING: sliding_theta}
    return {kind: _read(inner, given[kind], head_dim, 1.0, HALVES, thetas[kind]) for kind in thetas}


def _mapping(given: Any) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"rope_parameters is an object; got {shown(given)}")
    return given


def _read(
    hf: Fields, given: Mapping[str, Any], head_dim: int, share: float, pairs: str, theta: float
) -> RopeSpec:
    """One object of parameters, beside which `hf` may have the trained length."""
    rope_type = given.get("rope_type", given.get("type", "default"))
    if not isinstance(rope_type, str) or rope_type not in ROPE_TYPES:
        raise ConfigError(f"rope_type is one of {', '.join(ROPE_TYPES)}; got {shown(rope_type)}")
    if given.get("partial_rotary_factor") not in (None, share):
        raise ConfigError(
            f"RoPE rotates {share:g} of a head here; got another partial_rotary_factor"
        )
    dim = int(head_dim * share)
    if dim % 2 or not dim:
        part = "head_dim" if share == 1.0 else f"{share:g} of head_dim {head_dim}"
        raise ConfigError(f"{part} is even, for RoPE rotates pairs; got {dim}")

    known = {"rope_theta": theta}
    known |= {key: value for key, value in given.items() if value is not None}
    max_positions = hf.integer("max_position_embeddings")
    values, read = Fields(known), READ_BY.get(rope_type, ())
    numbers: dict[str, Any] = {
        name: values.number(name)
        for name in ("rope_theta", *read)
        if name not in ("truncate", TRAINED_LENGTH, *FACTORS) and known.get(name) is not None
    }
    lengths = (
        values if hf.get(TRAINED_LENGTH) is None else hf
    )  # the order in which transformers looks
    is_given = rope_type != "default" and lengths.get(TRAINED_LENGTH) is not None
    trained = None
    if is_given or rope_type in ("yarn", "llama3", "longrope"):
        trained = lengths.integer(TRAINED_LENGTH, max_positions)
    if trained is not None and rope_type == "longrope":
        numbers.setdefault("factor", max_positions / trained)
    factors: dict[str, Any] = {
        name: _factors(values, name, dim) for name in FACTORS if name in read
    }
    rope = RopeSpec(
        rope_type=rope_type,
        original_max_position_embeddings=trained,
        truncate=bool(given.get("truncate", True)),
        dim=dim,
        max_position_embeddings=max_positions,
        pairs=pairs,
        **numbers,
        **factors,
    )
    _check(rope, numbers)
    return rope


def _factors(values: Fields, name: str, dim: int) -> tuple[float, ...]:
    """A list of longrope: a positive number for each pair."""
    given = values.get(name)
    if not isinstance(given, list | tuple) or len(given) != dim // 2:
        raise ConfigError(
            f"{name} of longrope is a list of {dim // 2} numbers, one a pair; got {shown(given)}"
        )
    return tuple(Fields({name: factor}).number(name) for factor in given)


def read_share(hf: Fields, default: float) -> float:
    """The share of a head that is rotated: `partial_rotary_factor`, of the parameters of RoPE or beside them."""
    given = hf.get("rope_scaling") or hf.get("rope_parameters")
    inner = given.get("partial_rotary_factor") if isinstance(given, Mapping) else None
    share = (hf if inner is None else Fields(given)).number("partial_rotary_factor", default)
    if share > 1.0:
        raise ConfigError(f"partial_rotary_factor is at most 1; got {share}")
    return share


def share_of(dim: int, head_dim: int) -> float:
    """The share whose product with D is rounded down to `dim`: 2 / 98 is not, for 98 times it is below 2."""
    share = dim / head_dim
    return share if int(head_dim * share) == dim else math.nextafter(share, 1.0)


def write_rope(rope: RopeSpec | None = None) -> dict[str, Any]:
    """Keys of config.json: the newer spelling, and the older for readers that know no other. None: no keys."""
    if rope is None:
        return {}
    default = asdict(RopeSpec(dim=rope.dim, max_position_embeddings=rope.max_position_embeddings))
    always = {"rope_type", "rope_theta"}
    if rope.rope_type != "default":
        always |= {"factor"}
    if rope.rope_type == "llama3":
        always |= {"low_freq_factor", "high_freq_factor"}
    given = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(rope).items()
        if key not in NOT_IN_JSON and (key in always or value != default[key])
    }
    return {
        "rope_parameters": given,
        "rope_theta": rope.rope_theta,
        "rope_scaling": None if rope.rope_type == "default" else given,
    }


def write_ropes_by_type(full: RopeSpec, sliding: RopeSpec) -> dict[str, Any]:
    """Keys of config.json: one object for each type of layer, and the older spelling of the full layers'."""
    keys = write_rope(full)
    by_type = {FULL: keys["rope_parameters"], SLIDING: write_rope(sliding)["rope_parameters"]}
    return keys | {"rope_parameters": by_type}


def _check(rope: RopeSpec, numbers: Mapping[str, float]) -> None:
    if rope.rope_type != "default" and "factor" not in numbers:
        raise ConfigError(f'RoPE type "{rope.rope_type}" needs a factor; rope_parameters has none')
    if rope.rope_theta <= 1.0:
        raise ConfigError(f"rope_theta is above 1; got {rope.rope_theta}")
    if rope.high_freq_factor <= rope.low_freq_factor:
        raise ConfigError(
            "high_freq_factor is above low_freq_factor; "
            f"got {rope.high_freq_factor} and {rope.low_freq_factor}"
        )
    if (
        rope.rope_type == "longrope"
        and rope.factor > 1.0
        and rope.original_max_position_embeddings == 1
    ):
        raise ConfigError("original_max_position_embeddings of longrope is above 1; got 1")
    if rope.rope_type == "dynamic" and rope.dim == 2:
        raise ConfigError("dynamic RoPE needs a head_dim above 2; got 2")

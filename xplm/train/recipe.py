"""A recipe: all that a training run is told, read from TOML into frozen values.

    [model]      arch, and Hugging Face's config fields; not read where train.init gives a model
    [data]       what to learn from, cut how, and with which tokenizer
    [optimizer]  its name, and its own options
    [schedule]   the learning rate over the steps
    [train]      everything else

A key that no section has is an error. Every value has a default, and a setting "SECTION.KEY" replaces one. `to_toml`
writes a recipe out with every value in it, so that a run can be gone on with, or repeated, from its directory alone.
Paths in a file are relative to the file; a setting's, to the working directory. Where a model may be named, a path that
does not exist is taken for a name.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from xplm.checkpoint.untrusted import MAX_TOML_BYTES, parse_toml, read_text
from xplm.errors import RequestError, did_you_mean
from xplm.generate.options import SamplingOptions
from xplm.text.trainable import TOKENIZER_KINDS
from xplm.train.recipe_names import find_recipe

PATHS = ("data.path", "data.vocab_from")
MODELS = ("data.tokenizer", "train.init")


@dataclass(frozen=True)
class ModelRecipe:
    """The architecture of a new model. None leaves a field to the architecture."""

    arch: str = "llama"  # "llama": RMSNorm, RoPE, SwiGLU; "gpt": LayerNorm, learned positions, GELU
    position: str | None = None  # "rope" gives a gpt rotary positions; "learned" is its own
    hidden_size: int = 128
    intermediate_size: int | None = None  # 8/3 hidden_size up to a multiple of 8; 4 of it in a gpt
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None  # as many as query heads
    head_dim: int | None = None  # hidden_size / num_attention_heads
    max_position_embeddings: int | None = None  # data.context
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02  # standard deviation of the first weights
    attention_bias: bool = False  # of a llama's q, k, v and o; a gpt has every bias
    mlp_bias: bool = False


@dataclass(frozen=True)
class DataRecipe:
    """What to learn from."""

    path: str = ""  # text, JSON lines, a JSON list, or a folder of these
    kind: str = "text"  # "text": windows; "lines": each a sequence; "chat": the replies scored
    tokenizer: str | None = None  # of a new model: "char" (None), "word", "bpe", or another model's
    vocab_size: int | None = None  # tokens at most; None: all that the data hold, not for "bpe"
    vocab_from: str = ""  # another path whose text the tokenizer is made for too
    context: int = 64  # tokens to a sequence
    batch_size: int = 12  # sequences to a forward pass
    accumulation: int = 1  # forward passes to a step
    held_out: float = 0.1  # share, off the end, that is for validation
    packed: bool = False  # several lines or conversations to a sequence

    @property
    def tokenizer_name(self) -> str:
        """`tokenizer`, or what None stands for."""
        return "char" if self.tokenizer is None else self.tokenizer

    @property
    def has_rows_of_any_width(self) -> bool:
        """Whether a batch is as wide as its longest example, and not as the context."""
        return self.kind != "text" and not self.packed


@dataclass(frozen=True)
class OptimizerRecipe:
    """How a gradient becomes a step."""

    name: str = "adamw"
    clip: float = 1.0  # largest norm of the gradient, all parameters together; 0: any
    options: Mapping[str, Any] = field(default_factory=dict)  # the optimizer's own


@dataclass(frozen=True)
class ScheduleRecipe:
    """The learning rate over the steps."""

    kind: str = "cosine"  # "constant", "linear", "cosine" or "wsd"
    lr: float = 1e-3  # after the warm-up
    min_lr: float = 0.0  # at the end
    warmup_steps: int = 0
    decay_steps: int | None = None  # steps from lr down to min_lr; None: as the kind has it


@dataclass(frozen=True)
class TrainRecipe:
    """Everything else."""

    init: str = ""  # a model to go on from: a name, or a Hugging Face directory
    lora: int = 0  # rank of the adapters to train instead of the weights; 0: train the weights
    steps: int = 0  # updates; 0: as `epochs` says
    epochs: float = 0.0  # passes over the data
    seed: int = 0
    policy: str = "fp32"
    dropout: float = 0.0  # share of activations left out
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    ema: float = 0.0  # share of the averaged weights that a step keeps; 0: do not average
    recompute: bool = False  # keep a block's input only: less memory, a forward pass more
    eval_every: int = 250  # steps between evaluations, each of which saves a checkpoint
    eval_batches: int | None = None  # at most, spread over what is held out; None: all of it
    log_every: int = 10  # steps to a line of metrics.jsonl
    keep: int = 2  # checkpoints, besides the best
    sample_prompts: tuple[str, ...] = ()  # gone on from at each evaluation
    sample_tokens: int = 64
    sample_temperature: float = 0.8

    @property
    def sampling(self) -> SamplingOptions:
        """How samples are drawn.

        Raises:
            RequestError: an option is out of range.
        """
        try:
            return SamplingOptions(
                max_new_tokens=self.sample_tokens,
                temperature=self.sample_temperature,
                seed=self.seed,
            )
        except RequestError as error:
            raise RequestError(
                f"train.sample_tokens, train.sample_temperature and train.seed say how samples are drawn: {error}"
            ) from error


@dataclass(frozen=True)
class Recipe:
    model: ModelRecipe = ModelRecipe()
    data: DataRecipe = DataRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    schedule: ScheduleRecipe = ScheduleRecipe()
    train: TrainRecipe = TrainRecipe()

    def __post_init__(self) -> None:
        """Check what a type does not say.

        Raises:
            RequestError: a value is out of its range.
        """
        data, train, schedule = self.data, self.train, self.schedule
        for key, value, least in (
            ("data.context", data.context, 1),
            ("data.batch_size", data.batch_size, 1),
            ("data.accumulation", data.accumulation, 1),
            ("train.eval_every", train.eval_every, 1),
            ("train.log_every", train.log_every, 1),
            ("train.keep", train.keep, 1),
            ("train.steps", train.steps, 0),
            ("train.epochs", train.epochs, 0),
            ("train.seed", train.seed, 0),
            ("train.lora", train.lora, 0),
            ("train.z_loss", train.z_loss, 0),
            ("train.eval_batches", 0 if train.eval_batches is None else train.eval_batches, 0),
            ("optimizer.clip", self.optimizer.clip, 0),
            ("schedule.lr", schedule.lr, 0),
            ("schedule.min_lr", schedule.min_lr, 0),
            ("schedule.warmup_steps", schedule.warmup_steps, 0),
        ):
            if not value >= least:
                raise RequestError(f"{key} must be at least {least}; got {value}")
            if isinstance(value, float) and not isfinite(value):
                raise RequestError(f"{key} must be finite; got {value}")
        for key, share in (
            ("data.held_out", data.held_out),
            ("train.dropout", train.dropout),
            ("train.label_smoothing", train.label_smoothing),
            ("train.ema", train.ema),
        ):
            if not 0.0 <= share < 1.0:
                raise RequestError(f"{key} must be at least 0 and below 1; got {share}")
        _ = train.sampling  # refuses what is out of range
        names = (data.path, data.vocab_from, data.tokenizer_name, train.init)
        for key, name in zip(PATHS + MODELS, names, strict=True):
            if not _is_utf8(name):
                raise RequestError(f"{key} must be a name in UTF-8; got {name!a}; rename it")
        if not data.path:
            raise RequestError("training needs data; give data.path, or --data on the command line")
        if not train.steps and not train.epochs:
            raise RequestError("a run must have an end; give train.steps or train.epochs")


def load_recipe(name: str | Path, settings: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe.

    Args:
        name: a recipe that comes with xplm, or the path of a TOML file.
        settings: values by "SECTION.KEY", each in the place of what the file says.

    Raises:
        RequestError: the file cannot be read, a key is unknown, a value is of the wrong type or out of range, or a
            setting is of no use in the recipe.
    """
    path = find_recipe(name)
    try:
        tables = parse_toml(read_text(path, MAX_TOML_BYTES))
    except OSError as error:
        raise RequestError(f"a recipe must be readable; got {path}: {error.strerror}") from error
    except ValueError as error:
        raise RequestError(f"a recipe must be TOML in UTF-8; got {path}: {error}") from error
    _check_sections(tables)
    _anchor(tables, path.parent)
    for place, value in (settings or {}).items():
        section, _, key = place.partition(".")
        tables.setdefault(section, {})[key] = value
    _anchor(tables, Path())
    recipe = make_recipe(tables)
    useless = [key for key in unread_tokenizer_settings(recipe) if key in (settings or {})]
    if useless:
        raise RequestError(
            f"the tokenizer must be that of {recipe.train.init or recipe.data.tokenizer}, as it is; "
            f"got {', '.join(useless)} too; leave that out"
        )
    return recipe


def unread_tokenizer_settings(recipe: Recipe) -> list[str]:
    """The recipe's settings for a tokenizer that is made from data, where it takes that of a model instead."""
    data = recipe.data
    if not recipe.train.init and data.tokenizer_name in TOKENIZER_KINDS:
        return []
    own = data.tokenizer if recipe.train.init else None
    values = (own, data.vocab_size, data.vocab_from)
    keys = ("data.tokenizer", "data.vocab_size", "data.vocab_from")
    return [key for key, value in zip(keys, values, strict=True) if value]


def parse_setting(text: str) -> tuple[str, Any]:
    """A setting as the command line has it: "SECTION.KEY=VALUE", VALUE in TOML, or a word without quotes.

    Raises:
        RequestError: it is not of this form.
    """
    place, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"\s*\w+\.\w+\s*", place):
        hint = _where_else([place.strip()])
        raise RequestError(
            f'a setting is SECTION.KEY=VALUE, as in train.seed=1; got "{text}"{hint}'
        )
    try:
        return place.strip(), parse_toml(f"value = {value}")["value"]
    except ValueError:
        return place.strip(), value.strip()


def make_recipe(tables: Mapping[str, Any]) -> Recipe:
    """A recipe from its parsed TOML.

    Raises:
        RequestError: a section or key is unknown, or a value is of the wrong type or out of range.
    """
    _check_sections(tables)
    sections = {f.name: f.type for f in fields(Recipe)}
    values = {name: _section(sections[name], name, table) for name, table in tables.items()}
    return Recipe(**values)


def differences(old: Recipe, new: Recipe) -> list[str]:
    """What two recipes do not agree on: "train.seed: 1 -> 2"."""
    before, after = (
        {f"{section}.{key}": v for section, table in asdict(r).items() for key, v in table.items()}
        | {"data.tokenizer": r.data.tokenizer_name}
        for r in (old, new)
    )
    return [f"{key}: {before[key]} -> {after[key]}" for key in before if before[key] != after[key]]


def to_toml(recipe: Recipe) -> str:
    """A recipe as the TOML that `load_recipe` reads back as the same recipe."""
    lines = []
    for name, table in asdict(recipe).items():
        table |= table.pop("options", {})
        lines.append(f"[{name}]")
        lines += [f"{key} = {_to_toml(v)}" for key, v in table.items() if v is not None]
        lines.append("")
    return "\n".join(lines)


def _check_sections(tables: Mapping[str, Any]) -> None:
    """Refuse what is no section of a recipe, and a section that is no table.

    Raises:
        RequestError: there is one.
    """
    sections = [f.name for f in fields(Recipe)]
    for name, table in tables.items():
        if name not in sections or not isinstance(table, Mapping):
            hint = "" if name in sections else did_you_mean(name, sections)
            raise RequestError(
                f"a recipe's sections are [{'], ['.join(sections)}]; got {name}{hint}"
            )


def _section(kind: Any, name: str, table: Mapping[str, Any]) -> Any:
    """One section's value. A section with `options` takes keys that it does not know as those of its own."""
    types = {f.name: f.type for f in fields(kind)}
    free = types.pop("options", None)
    unknown = {key: value for key, value in table.items() if key not in types}
    if unknown and not free:
        hint = _where_else(unknown) or did_you_mean(unknown, types)
        raise RequestError(
            f"[{name}] has {', '.join(types)}; got unknown {', '.join(unknown)}{hint}"
        )
    for key, value in unknown.items():
        if not isinstance(value, int | float | str):  # a date, say
            raise RequestError(
                f"{name}.{key} must be a number, a truth value or a text; got {value!r}"
            )

    given = {
        key: _typed(f"{name}.{key}", v, types[key]) for key, v in table.items() if key in types
    }
    return kind(**given, options=unknown) if free else kind(**given)


def _where_else(keys: Iterable[str]) -> str:
    """The end of a message about unknown keys that other sections have: "; did you mean schedule.lr?", or ""."""
    sections: dict[str, Any] = {f.name: f.type for f in fields(Recipe)}
    places = [
        f"{section}.{key}"
        for key in keys
        for section, kind in sections.items()
        if key in {f.name for f in fields(kind)} - {"options"}
    ]
    return f"; did you mean {' or '.join(places)}?" if places else ""


def _typed(key: str, value: Any, kind: Any) -> Any:
    """A TOML value as a field's type, in which an integer may stand for a float."""
    if isinstance(kind, UnionType):
        kind = next(option for option in get_args(kind) if option is not type(None))
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_typed(key, item, get_args(kind)[0]) for item in value)
    if kind is float and type(value) is int:
        return float(str(value))  # of an integer too large for a float, infinity
    if type(value) is not kind:
        noun = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}
        raise RequestError(f"{key} must be {noun.get(kind, 'a list of texts')}; got {value!r}")
    return value


def _anchor(tables: Mapping[str, Any], base: Path) -> None:
    """Make the paths in parsed TOML absolute; a model's name, which is no path, stays one."""
    for place in PATHS + MODELS:
        section, _, key = place.partition(".")
        name = tables.get(section, {}).get(key)
        if not isinstance(name, str) or not name:
            continue
        if place == "data.tokenizer" and name in TOKENIZER_KINDS:
            continue
        path = (base / os.path.expanduser(name)).absolute()
        if place in PATHS or os.path.exists(path):
            tables[section][key] = str(path)


def _is_utf8(text: str) -> bool:
    """Whether a text can be written down; a file name with bytes that no character has cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _to_toml(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(_to_toml(item) for item in value)}]"
    # A JSON string is a TOML string once its non-ASCII characters are left as they are.
    return json.dumps(value, ensure_ascii=False)

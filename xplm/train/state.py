"""All that changes as a model trains, and its files.

    state.safetensors    master weights, the optimizer's moments, the averaged weights: exact, in the dtype they have
    state.json           step, loss scale, the best evaluation so far

What a run does next depends on these, the recipe and the data alone: one that is resumed from them ends in the very
weights of one that was never interrupted.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import inf, prod
from pathlib import Path
from types import NoneType
from typing import Any

from xplm.backend import Backend
from xplm.checkpoint.files import write_json
from xplm.checkpoint.safetensors_file import open_safetensors
from xplm.checkpoint.save import write_tensors
from xplm.checkpoint.untrusted import read_json_object
from xplm.errors import CheckpointError
from xplm.models.loss_scale import LossScale
from xplm.out_of_memory import require_memory
from xplm.train.optimizers import OptimizerState
from xplm.typing import Params

TENSORS = "state.safetensors"
FACTS = "state.json"


FACT_TYPES: dict[str, tuple[type, ...]] = {
    "step": (int,),
    "optimizer_step": (int,),
    "scale": (dict,),
    "best_loss": (float, NoneType),
    "best_step": (int, NoneType),
    "line_loss": (float,),
    "line_targets": (int,),
}
"""What state.json holds; no number of it is below 0."""

SCALE_TYPES = {field.name: (type(field.default),) for field in fields(LossScale)}


@dataclass(frozen=True)
class TrainState:
    """Where a run is."""

    step: int  # steps taken, those skipped for overflow included
    masters: Params  # what is trained, float32 (float64 under fp64)
    optimizer: OptimizerState
    average: Params  # of the masters over the steps; empty where the recipe asks for none
    scale: LossScale
    best_loss: float = inf  # lowest validation loss so far
    best_step: int | None = None  # the step it was found after
    line_loss: float = 0.0  # sum over the targets of all steps since the last line of metrics
    line_targets: int = 0  # how many those are

    @property
    def weights(self) -> Params:
        """What is evaluated and shipped: the average where there is one."""
        return self.average or self.masters

    @property
    def n_numbers(self) -> int:
        """Of all of its arrays."""
        arrays = _groups(self.masters, self.optimizer.moments, self.average)
        return sum(prod(x.shape) for x in arrays.values())

    def with_loss(self, loss: float, n_targets: int) -> "TrainState":
        """The same, with a step's mean loss added to what the next line of metrics says."""
        total = self.line_loss + loss * n_targets
        return replace(self, line_loss=total, line_targets=self.line_targets + n_targets)


def save_state(directory: Path, state: TrainState, backend: Backend, dtype: str) -> None:
    """Write both files into a directory, and flush them to the disk.

    Args:
        directory: it exists.
        state: what to write.
        backend: of its arrays.
        dtype: of all of them, by its array-API name.

    Raises:
        OSError: the disk refuses.
    """
    arrays = _groups(state.masters, state.optimizer.moments, state.average)
    shapes = {name: tuple(x.shape) for name, x in arrays.items()}
    write_tensors(directory / TENSORS, shapes, lambda name, _: backend.to_host(arrays[name]), dtype)
    facts = {
        "step": state.step,
        "optimizer_step": state.optimizer.step,
        "scale": asdict(state.scale),
        "best_loss": None if state.best_loss == inf else state.best_loss,
        "best_step": state.best_step,
        "line_loss": state.line_loss,
        "line_targets": state.line_targets,
    }
    write_json(directory / FACTS, facts)


def load_state(directory: Path, backend: Backend) -> TrainState:
    """Read what `save_state` wrote.

    Raises:
        OutOfMemoryError: the device has less free memory than the arrays take.
        CheckpointError: a file is missing or malformed.
    """
    facts = read_json_object(directory / FACTS)
    groups: dict[str, Params] = {"masters": {}, "moments": {}, "average": {}}
    try:
        _check_types(facts, FACT_TYPES)
        _check_types(facts["scale"], SCALE_TYPES)
        file = open_safetensors(directory / TENSORS)
        what = "parameters and moments of a run"
        require_memory(backend, file.stamp.n_bytes, what, "free memory")
        for key in file.tensors:
            group, _, name = key.partition("/")
            if group not in groups:
                raise ValueError(f"a tensor {key}")
            groups[group][name] = backend.from_host(file.read(key))
        best_loss = facts["best_loss"]
        return TrainState(
            step=facts["step"],
            masters=groups["masters"],
            optimizer=OptimizerState(facts["optimizer_step"], groups["moments"]),
            average=groups["average"],
            scale=LossScale(**facts["scale"]),
            best_loss=inf if best_loss is None else best_loss,
            best_step=facts["best_step"],
            line_loss=facts["line_loss"],
            line_targets=facts["line_targets"],
        )
    except (CheckpointError, ValueError) as error:
        raise CheckpointError(
            f"{directory} must hold a whole training state; got: {error}; remove it to resume "
            f"from the checkpoint before it"
        ) from error


def _check_types(facts: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]) -> None:
    """Raise ValueError where a fact is missing, unknown, of another type, negative, or not finite."""
    if facts.keys() != types.keys():
        raise ValueError(f"it has {', '.join(facts)} instead of {', '.join(types)}")
    for key, value in facts.items():
        is_number = isinstance(value, int | float)
        if type(value) not in types[key] or (is_number and not 0 <= value < inf):
            raise ValueError(f"{key} is {value!r}")


def _groups(masters: Params, moments: Params, average: Params) -> Mapping[str, Any]:
    named = {"masters": masters, "moments": moments, "average": average}
    return {f"{group}/{name}": x for group, params in named.items() for name, x in params.items()}

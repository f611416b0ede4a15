"""Parameters from a checkpoint into a backend's memory.

Everything that the headers can tell is checked before the first byte is allocated: that the model fits, then names,
shapes and storage kinds, with all that is wrong in one message. Then tensors are read, cast and handed over a few at a
time, the largest first, while little else is resident.
"""

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from xplm.checkpoint.checkpoint import Checkpoint
from xplm.checkpoint.harmless import is_harmless, prediction_tensors
from xplm.errors import CheckpointError, visible
from xplm.formats import Format, round_to
from xplm.models.decoder import EMBEDDING, LM_HEAD, param_specs
from xplm.out_of_memory import require_memory
from xplm.params import ParamSpec, count_params
from xplm.precision import cast
from xplm.progress import LOADING, OnProgress, unseen
from xplm.runtime import Runtime
from xplm.typing import Params

MAX_LISTED = 5  # names in a message
_log = logging.getLogger(__name__)

LOAD_ADVICE = "use a smaller model or a narrower policy, or free memory"


def load_params(checkpoint: Checkpoint, rt: Runtime, progress: OnProgress = unseen) -> Params:
    """Load every parameter of a model.

    Args:
        checkpoint: the open checkpoint.
        rt: where the parameters go, and their dtype.
        progress: called with the bytes read so far.

    Returns:
        The parameters, by Hugging Face name; tied embeddings once, under the embedding's name.

    Raises:
        OutOfMemoryError: the device has less free memory than the parameters take.
        CheckpointError: names or shapes or kinds are not what the configuration asks for, a tensor cannot be read or
            held in the dtype, or embeddings that should be tied are not.
    """
    check_layers(checkpoint)
    specs = param_specs(checkpoint.config)
    dtype = rt.host_dtype.param
    needed = count_params(specs) * dtype.itemsize
    what = f"{count_params(specs):,} parameters in {rt.policy.param}"
    require_memory(rt.backend, needed, what, LOAD_ADVICE)

    stored = match_names(checkpoint, specs)
    check_tied(checkpoint, specs)
    kept = rt.dtype.param
    params: Params = {}
    n_bytes = 0
    progress(LOADING, n_bytes, needed)
    rt.backend.before_loading(needed)
    by_size = sorted(specs, key=lambda name: -specs[name].size)
    with ThreadPoolExecutor(checkpoint.readers) as pool:
        for start in range(0, len(by_size), checkpoint.readers):
            names = by_size[start : start + checkpoint.readers]
            read = pool.map(lambda name: checkpoint.read(stored[name], dtype), names)
            for name, host in zip(names, read, strict=True):
                if isinstance(kept, Format):  # what is not emulated was checked as it was read
                    _check_range(host, kept, name)
                params[name] = cast(rt.backend.from_host(host), kept)
                n_bytes += specs[name].size * dtype.itemsize
            progress(LOADING, n_bytes, needed)
    return {name: params[name] for name in specs}


def check_layers(checkpoint: Checkpoint) -> None:
    """Refuse a layer count that no table of parameters should be built for.

    Raises:
        CheckpointError: there are more layers than tensors.
    """
    layers, tensors = checkpoint.config.num_hidden_layers, len(checkpoint.tensors)
    if layers > tensors:
        raise CheckpointError(
            f"every layer must have tensors; {checkpoint.path} holds {tensors} tensors for "
            f"{layers} layers; check num_hidden_layers"
        )


def match_names(checkpoint: Checkpoint, specs: Mapping[str, ParamSpec]) -> dict[str, str]:
    """Find where each parameter is stored.

    Args:
        checkpoint: the open checkpoint.
        specs: the parameters that its configuration asks for.

    Returns:
        For each parameter's name the name that it is stored under.

    Raises:
        CheckpointError: parameters are missing, or tensors are unexpected, or have another shape or kind.
    """
    tensors = checkpoint.tensors
    stored = {name: name for name in specs}
    tied = LM_HEAD not in specs
    if tied and EMBEDDING not in tensors and LM_HEAD in tensors:
        stored[EMBEDDING] = LM_HEAD

    missing = [name for name in specs if stored[name] not in tensors]
    left_out = prediction_tensors(
        tensors.keys() - stored.values(), checkpoint.config.num_hidden_layers
    )
    if left_out:
        which = "the layers that predict the token after the next are left out"
        n = len(left_out)
        _log.warning("%s: %s, and their %d tensors are not read", checkpoint.path, which, n)
    unexpected = [
        name
        for name in tensors.keys() - stored.values() - left_out
        if not is_harmless(name, tensors[name]) and not (tied and name == LM_HEAD)
    ]
    if missing or unexpected:
        raise CheckpointError(
            f"{checkpoint.path} must hold the parameters of its configuration and no others; "
            f"missing: {_listed(missing)}; unexpected: {_listed(sorted(unexpected))}; "
            f"check that config and weights belong together"
        )

    wrong = [
        f"{stored[name]} of shape {tensors[stored[name]].shape} where {spec.shape} belongs"
        for name, spec in specs.items()
        if tensors[stored[name]].shape != spec.shape
    ]
    if wrong:
        raise CheckpointError(
            f"{checkpoint.path} must hold tensors of the shapes that its configuration asks for; "
            f"got {_listed(wrong)}; check that config and weights belong together"
        )

    odd = [
        f"{source} as {tensors[source].kind}"
        for source in stored.values()
        if tensors[source].kind not in checkpoint.kinds
    ]
    if odd:
        raise CheckpointError(
            f"weights must be stored as one of {', '.join(checkpoint.kinds)}; got {_listed(odd)}; "
            f"convert them to one of these"
        )
    return stored


def check_tied(checkpoint: Checkpoint, specs: Mapping[str, ParamSpec]) -> None:
    """Refuse tied embeddings that are stored twice and differ: one of the two would be dropped.

    Args:
        checkpoint: the open checkpoint, its names and kinds matched.
        specs: the parameters that its configuration asks for.

    Raises:
        CheckpointError: they differ, or cannot be read.
    """
    tensors = checkpoint.tensors
    if LM_HEAD in specs or not {EMBEDDING, LM_HEAD} <= tensors.keys():
        return
    equal = tensors[LM_HEAD] == tensors[EMBEDDING]
    if equal:
        float32 = np.dtype(np.float32)
        first, second = (checkpoint.read(name, float32) for name in (EMBEDDING, LM_HEAD))
        equal = np.array_equal(first.view(np.uint32), second.view(np.uint32))  # NaN equals itself
    if not equal:
        raise CheckpointError(
            f"tied embeddings must be one matrix; {checkpoint.path} stores another {LM_HEAD} beside {EMBEDDING}; "
            f"set tie_word_embeddings to false in its config.json"
        )


def _check_range(host: np.ndarray, format: Format, name: str) -> None:
    """Refuse a tensor with a finite number that would not stay finite in a format."""
    largest = np.abs(host[np.isfinite(host)]).max(initial=0.0)
    if not np.isfinite(round_to(largest[None], format)[0]):
        raise CheckpointError(
            f"tensor {name} must stay finite in {format.name}, whose largest value is {format.max:.6g}; "
            f"it holds {largest:.3g}; use bf16 or fp32 instead"
        )


def _listed(items: list[str]) -> str:
    text = ", ".join(visible(item) for item in items[:MAX_LISTED]) or "none"
    return text if len(items) <= MAX_LISTED else f"{text} and {len(items) - MAX_LISTED} more"

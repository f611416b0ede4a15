"""Flags that several commands share, in groups.

A group is a dataclass whose fields are typer options. A command that has a parameter of that type gets all of the
group's flags, and receives them as one value:

    @takes_flags
    def generate(model: ModelFlags, output: OutputFlags, prompt: ...) -> None: ...
"""

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from xplm.backend import load_backend
from xplm.checkpoint.pull import default_home
from xplm.cli.output import Output
from xplm.cli.progress import pull_with_progress
from xplm.cli.threads import use_threads
from xplm.generate.options import SamplingOptions
from xplm.language_model import LanguageModel, load
from xplm.runtime import make_runtime


def takes_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Spread the groups among a command's parameters out into single flags, which typer reads from its signature."""
    parameters = inspect.signature(command).parameters
    groups: dict[str, Any] = {
        name: p.annotation for name, p in parameters.items() if is_dataclass(p.annotation)
    }
    flat: list[inspect.Parameter] = []
    for name, parameter in parameters.items():
        group = groups.get(name)
        flat += inspect.signature(group).parameters.values() if group else [parameter]

    def spread(**given: Any) -> None:
        values = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**values, **given)

    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in flat]
    vars(spread)["__signature__"] = inspect.Signature(keyword_only)
    spread.__annotations__ = {p.name: p.annotation for p in flat}
    spread.__name__, spread.__doc__ = command.__name__, command.__doc__
    return spread


@dataclass(frozen=True)
class ModelFlags:
    """Which model, and where and how to compute."""

    model: Annotated[
        str, typer.Option(help="A pulled name, a Hugging Face directory, or a .gguf file.")
    ] = "smollm2-135m-instruct"
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu"
    backend: Annotated[
        str | None, typer.Option(help="An array library; if not given, numpy on cpu, cupy on cuda.")
    ] = None
    policy: Annotated[
        str, typer.Option(help="fp32, fp16 or bf16, then exceptions: bf16,softmax=bf16.")
    ] = "fp32"
    kernels: Annotated[
        str, typer.Option(help="fused, or portable: the reference source alone.")
    ] = "fused"
    threads: Annotated[
        int | None,
        typer.Option(min=1, callback=use_threads, help="CPU threads; if not given, one a core."),
    ] = None
    adapter: Annotated[
        Path | None, typer.Option(help="Low-rank adapters for it, a directory in PEFT's layout.")
    ] = None

    def fetch(self, out: Output) -> Path:
        """Find the model's files, or fetch them in sight of the user, once the other flags are known to be good."""
        make_runtime(load_backend(self.backend, self.device), self.policy, self.kernels)
        return pull_with_progress(self.model, home(), out)

    def load(self, out: Output) -> LanguageModel:
        """Load the model; fetch it first if it is not on this machine."""
        return load(
            self.fetch(out),
            device=self.device,
            policy=self.policy,
            backend=self.backend,
            kernels=self.kernels,
            adapter=self.adapter,
        )


@dataclass(frozen=True)
class SamplingFlags:
    """How to choose tokens, and when to stop."""

    max_new_tokens: Annotated[int, typer.Option(help="Stop after so many tokens.")] = (
        SamplingOptions.max_new_tokens
    )
    temperature: Annotated[float, typer.Option(help="Divides the logits; 0 is greedy.")] = (
        SamplingOptions.temperature
    )
    top_k: Annotated[int, typer.Option(help="Keep the k likeliest tokens; 0 keeps all.")] = (
        SamplingOptions.top_k
    )
    top_p: Annotated[
        float, typer.Option(help="Keep the likeliest tokens up to this probability, in (0, 1].")
    ] = SamplingOptions.top_p
    min_p: Annotated[
        float, typer.Option(help="Keep tokens this likely beside the likeliest, in [0, 1].")
    ] = SamplingOptions.min_p
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1 makes tokens that already occurred less likely.")
    ] = SamplingOptions.repetition_penalty
    stop: Annotated[
        list[str] | None, typer.Option(help="A text to stop at; may be given several times.")
    ] = None
    num_beams: Annotated[int, typer.Option(help="Above 1 is beam search.")] = (
        SamplingOptions.num_beams
    )
    seed: Annotated[int, typer.Option(help="Names the stream of random numbers.")] = (
        SamplingOptions.seed
    )

    def options(self) -> dict[str, Any]:
        """The fields of SamplingOptions, checked.

        Raises:
            RequestError: one is out of range.
        """
        options = {field.name: getattr(self, field.name) for field in fields(self)}
        options["stop"] = tuple(self.stop or ())
        SamplingOptions(**options)
        return options


def home() -> Path:
    """Where pulled models lie: XPLM_HOME, or the platform's user cache directory."""
    named = os.environ.get("XPLM_HOME")
    return Path(named) if named else default_home()

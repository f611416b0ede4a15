"""Flags that several commands share, in groups.

A group is a dataclass whose fields are typer options. A command that has a parameter of that type gets all of the
group's flags, and receives them as one value:

    @takes_flags
    def generate(model: ModelFlags, output: OutputFlags, prompt: ...) -> None: ...

A group may hold another: what is wanted of WhereFlags is wanted of ModelFlags too.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer

from xplm.backend import load_backend
from xplm.checkpoint.opening import open_checkpoint
from xplm.checkpoint.sampling import NO_SAMPLING, ModelSampling
from xplm.cli.ahead import compile_ahead, start_early, stop_compiling_ahead
from xplm.cli.output import Output
from xplm.cli.places import home
from xplm.cli.progress import pull_with_progress
from xplm.cli.sampling import RANDOM, merge_options, parse_seed
from xplm.errors import RequestError
from xplm.generate.options import SamplingOptions
from xplm.language_model import LanguageModel, load_checkpoint
from xplm.precision import Policy
from xplm.runtime import INVARIANT, Runtime, make_runtime
from xplm.threads import MOST_THREADS
from xplm.train.recipe_names import RECIPES

RecipeArgument = Annotated[
    Path, typer.Argument(metavar="RECIPE", help=f"{', '.join(RECIPES)}, or a TOML file.")
]

OWN = "; in a chat, the model's own"
MODEL_HELP = "A pulled name, a Hugging Face directory, or a GGUF file."


def takes_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Spread the groups among a command's parameters out into single flags, which typer reads from its signature."""
    parameters = inspect.signature(command).parameters
    flat = _flat(command)

    def spread(**given: Any) -> None:
        try:
            command(
                **{name: _gathered(p.annotation, name, given) for name, p in parameters.items()}
            )
        finally:
            stop_compiling_ahead()

    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in flat]
    vars(spread)["__signature__"] = inspect.Signature(keyword_only)
    spread.__annotations__ = {p.name: p.annotation for p in flat}
    spread.__name__, spread.__doc__ = command.__name__, command.__doc__
    return spread


def _flat(callable_: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a command or a group, those of the groups among them in their place."""
    flat = []
    for parameter in inspect.signature(callable_).parameters.values():
        is_group = is_dataclass(parameter.annotation)
        flat += _flat(parameter.annotation) if is_group else [parameter]
    return flat


def _gathered(annotation: Any, name: str, given: Mapping[str, Any]) -> Any:
    """The value of one parameter: a group is made of the flags that are its own."""
    if not is_dataclass(annotation):
        return given[name]
    group: Any = annotation
    return group(**{f.name: _gathered(f.type, f.name, given) for f in fields(group)})


DEFAULT_KERNELS = "fused"
BLAS_HELP = "What multiplies matrices: openblas, mkl or numpy; if not given, the fastest here."


@dataclass(frozen=True)
class WhereFlags:
    """Where to compute."""

    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu"
    backend: Annotated[
        str | None, typer.Option(help="An array library; if not given, numpy on cpu, cupy on cuda.")
    ] = None
    kernels: Annotated[
        str, typer.Option(help="fused; portable: the reference source alone; or invariant.")
    ] = DEFAULT_KERNELS
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_THREADS, help="CPU threads; if not given, one a core."),
    ] = None
    blas: Annotated[str | None, typer.Option(help=BLAS_HELP)] = None
    invariant: Annotated[
        bool, typer.Option("--invariant", help="--kernels invariant: the same bits in any batch.")
    ] = False

    def runtime(self, policy: str | Policy) -> Runtime:
        """A runtime of this backend and these kernels.

        Raises:
            XplmError: the backend, the device, the policy or the kernels are not there.
        """
        backend = load_backend(self.backend, self.device, self.threads, self.blas)
        return make_runtime(backend, policy, self.kernel_table)

    @property
    def kernel_table(self) -> str:
        """The kernels that --kernels and --invariant ask for together.

        Raises:
            RequestError: for different ones.
        """
        if self.invariant and self.kernels not in (DEFAULT_KERNELS, INVARIANT):
            raise RequestError(
                f'--invariant is --kernels invariant; got --kernels "{self.kernels}" too; leave one out'
            )
        return INVARIANT if self.invariant else self.kernels

    def not_default(self) -> list[str]:
        """The flags that a command line needs to compute where this one does."""
        flags = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value is True:
                flags.append(f"--{field.name}")
            elif value != field.default:
                flags += [f"--{field.name}", str(value)]
        return flags


@dataclass(frozen=True)
class ModelFlags:
    """Which model, and where and how to compute."""

    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "smollm2-135m-instruct:q4_1"
    where: WhereFlags = WhereFlags()
    policy: Annotated[
        str,
        typer.Option(help="fp32, fp16, bf16, tf32, fp8, ...; then exceptions: bf16,softmax=bf16."),
    ] = "fp32"
    adapter: Annotated[
        Path | None, typer.Option(help="Low-rank adapters for it, a directory in PEFT's layout.")
    ] = None
    context: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens to a sequence; if not given, as the model's config says."),
    ] = None

    @property
    def device(self) -> str:
        """--device."""
        return self.where.device

    @property
    def backend(self) -> str | None:
        """--backend."""
        return self.where.backend

    @property
    def kernels(self) -> str:
        """--kernels, or --invariant."""
        return self.where.kernel_table

    def fetch(self, out: Output) -> Path:
        """Find the model's files, or fetch them in sight of the user, once the other flags are known to be good."""
        self.where.runtime(self.policy)
        return pull_with_progress(self.model, home(), out)

    def load(self, out: Output, *, decodes: bool = True) -> LanguageModel:
        """Load the model; fetch it first if it is not on this machine.

        Args:
            out: where to print.
            decodes: whether the command generates tokens.
        """
        path = self.fetch(out)
        rt = self.where.runtime(self.policy)
        checkpoint = open_checkpoint(path)
        if (
            decodes and self.adapter is None and not rt.is_invariant
        ):  # beside adapters no step is fused
            compile_ahead(rt, "generate", checkpoint.config.model_type)
            start_early(rt)
        return load_checkpoint(
            rt, checkpoint, self.adapter, self.context, progress=out.waiting.report
        )


@dataclass(frozen=True)
class SamplingFlags:
    """How to choose tokens, and when to stop."""

    max_new_tokens: Annotated[
        int | None, typer.Option(help="Stop after so many tokens.", show_default="256")
    ] = None
    temperature: Annotated[
        float | None, typer.Option(help="Divides the logits; 0 is greedy.", show_default="0" + OWN)
    ] = None
    top_k: Annotated[
        int | None,
        typer.Option(help="Keep the k likeliest tokens; 0 keeps all.", show_default="0" + OWN),
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Keep the likeliest tokens up to this probability, in (0, 1].",
            show_default="1" + OWN,
        ),
    ] = None
    min_p: Annotated[
        float | None,
        typer.Option(
            help="Keep tokens this likely beside the likeliest, in [0, 1].", show_default="0" + OWN
        ),
    ] = None
    repetition_penalty: Annotated[
        float | None,
        typer.Option(
            help="Above 1 makes tokens that already occurred less likely.", show_default="1" + OWN
        ),
    ] = None
    stop: Annotated[
        list[str] | None, typer.Option(help="A text to stop at; may be given several times.")
    ] = None
    num_beams: Annotated[
        int | None, typer.Option(help="Above 1 is beam search.", show_default="1")
    ] = None
    seed: Annotated[
        str,
        typer.Option(
            metavar="N|random", help="Names the stream of random numbers; random draws a name."
        ),
    ] = str(SamplingOptions.seed)

    @property
    def draws_seed(self) -> bool:
        """--seed random."""
        return self.seed == RANDOM

    @cached_property
    def given(self) -> dict[str, Any]:
        """The fields of SamplingOptions that flags set, and the seed.

        Raises:
            RequestError: the seed is neither an integer nor "random".
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["seed"] = parse_seed(self.seed)
        values["stop"] = tuple(self.stop) if self.stop else None
        return {name: value for name, value in values.items() if value is not None}

    def options(self, model: ModelSampling = NO_SAMPLING) -> dict[str, Any]:
        """The fields of SamplingOptions, checked.

        Args:
            model: the model's own values, for a command that takes them where no flag says otherwise.

        Raises:
            RequestError: one is out of range.
        """
        return merge_options(self.given, model)

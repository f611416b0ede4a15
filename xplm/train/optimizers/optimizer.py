"""What every optimizer is: a rule for one tensor, applied to each parameter of a model.

    init    moments_0 = make_moments(param)
    update  param_t, moments_t = rule(param_(t-1), grad_t, moments_(t-1))        t = 1, 2, ...

Both are pure: they return new dicts of new arrays and write into nothing they are given, so a state that was kept can
be gone back to. A rule is written for one tensor and knows its neighbours by nothing but the step they share; an
optimizer's file holds its options, its rule and its source.

Numerics. Parameters are float32 masters (or float64) and gradients as wide, as `loss_and_grads` returns them; a rule
mixes them with Python scalars only, which change no dtype.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import inf
from numbers import Real
from typing import Any, NamedTuple, TypeAlias

from xplm.errors import RequestError, did_you_mean
from xplm.params import ParamSpec
from xplm.typing import Array, Params

Rule: TypeAlias = Callable[..., tuple[Array, Params]]
"""rule(param, grad, moments, *, spec, step, lr, options) -> (param, moments), with step = 1 at the first update."""


class OptimizerState(NamedTuple):
    step: int  # updates made so far
    moments: Params  # "MOMENT.PARAMETER", as in "exp_avg.model.norm.weight": float, the parameter's dtype


@dataclass(frozen=True)
class Optimizer:
    """An optimizer: its options, how it begins, and its rule."""

    options: type[
        Any
    ]  # frozen dataclass of numbers, validated as it is made; defaults as published
    make_moments: Callable[[Array, ParamSpec, Any], Params]  # (param, spec, options) -> by moment
    rule: Rule

    def make_options(self, values: Mapping[str, Any]) -> Any:
        """Options by name, as a recipe holds them.

        Raises:
            RequestError: an unknown name, or a value out of range.
        """
        known = [field.name for field in fields(self.options)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise RequestError(
                f"this optimizer's options are {', '.join(known)}; got unknown {', '.join(unknown)}"
                f"{did_you_mean(unknown, known)}"
            )
        return self.options(**values)

    def init(self, params: Params, specs: Mapping[str, ParamSpec], options: Any) -> OptimizerState:
        """The state before the first update.

        Args:
            params: what is to be trained, float32 or wider.
            specs: a row for each of them.
            options: an `options` of this optimizer.
        """
        moments = {}
        for name, param in params.items():
            for moment, array in self.make_moments(param, specs[name], options).items():
                moments[f"{moment}.{name}"] = array
        return OptimizerState(0, moments)

    def update(
        self,
        params: Params,
        grads: Params,
        state: OptimizerState,
        specs: Mapping[str, ParamSpec],
        *,
        lr: float,
        options: Any,
    ) -> tuple[Params, OptimizerState]:
        """One step downhill.

        Args:
            params: what is trained, float32 or wider.
            grads: its gradient, under the same names.
            state: what `init` or the last update returned.
            specs: a row for each parameter.
            lr: this step's learning rate.
            options: those that `init` was given.

        Returns:
            The new parameters and the new state.
        """
        by_param: dict[str, Params] = {name: {} for name in params}
        for key, array in state.moments.items():
            moment, _, name = key.partition(".")
            by_param[name][moment] = array

        step = state.step + 1
        new_params, new_moments = {}, {}
        for name, param in params.items():
            new_params[name], moments = self.rule(
                param,
                grads[name],
                by_param[name],
                spec=specs[name],
                step=step,
                lr=lr,
                options=options,
            )
            for moment, array in moments.items():
                new_moments[f"{moment}.{name}"] = array
        return new_params, OptimizerState(step, new_moments)


def weight_decay(spec: ParamSpec, options: Any) -> float:
    """The decay of one parameter: the options' where its row says that it decays, else 0."""
    return options.weight_decay if spec.decays else 0.0


def require_between(options: Any, low: float, high: float, *names: str) -> None:
    """Check that fields are numbers in [low, high).

    Raises:
        RequestError: one is not.
    """
    for name in names:
        value = getattr(options, name)
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not is_number or not low <= value < high:
            below = "" if high == inf else f" and below {high}"
            raise RequestError(
                f"{name} must be a number, at least {low}{below}; got {value!r} in {options}"
            )

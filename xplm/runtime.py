"""What every layer function receives first: where to compute, with which kernels, in which dtypes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from types import SimpleNamespace
from typing import Any

import numpy as np

from xplm.backend import Backend
from xplm.blas import unmeasured
from xplm.emulation import Rounding, emulate
from xplm.errors import BackendError, KernelError, RequestError, did_you_mean
from xplm.formats import Format, round_to
from xplm.kernels import PORTABLE
from xplm.kernels.fusions import FUSIONS, MADE_OF, OpsAndFusions
from xplm.precision import HOST_DTYPES, Policy, PolicyDtypes

INVARIANT = "invariant"
KERNELS = ("fused", "portable", INVARIANT)

KEPT_APART = ("rope", "norm", "softmax")
"""Islands that kernels "invariant" compute in float32."""


INVARIANT_DTYPES = ("float32", "bfloat16", "float16")
"""In which they take arrays to be stored."""


@dataclass(frozen=True, repr=False)
class Runtime:
    """A backend and a policy, with the kernel table and the dtypes that follow from them."""

    backend: Backend
    policy: Policy
    kernels: Mapping[str, Callable[..., Any]]  # by function name: "rms_norm_fwd"
    rules: Mapping[str, Callable[..., Any]]  # the backend's, by function name: "adamw_rule"
    dtype: PolicyDtypes  # the backend's dtype objects; a Format where it is emulated
    host_dtype: PolicyDtypes  # the same as NumPy dtypes; float32 where it is emulated
    is_invariant: bool = False  # whether no row's bits depend on what is computed beside it
    ops: OpsAndFusions = field(init=False)  # the kernel table, as attributes

    def __post_init__(self) -> None:
        """Spread the table out, so that a layer reads `rt.ops.rms_norm_fwd(...)`."""
        object.__setattr__(self, "ops", SimpleNamespace(**self.kernels))

    def __repr__(self) -> str:
        """The library, the device and the policy."""
        return f"Runtime({self.backend.name} on {self.backend.device_name}, {self.policy!r})"

    def fused(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The backend's replacement for a rule of an optimizer or the like, or `function` itself."""
        found = self.rules.get(function.__name__)
        return function if found is None else _or_portable(found, function)

    def has(self, *names: str) -> bool:
        """Whether all of these are in the table. Ops always are; fusions may be left out of it."""
        return all(name in self.kernels for name in names)

    @property
    def table_dtype(self) -> np.dtype | Format:
        """What host tables of the rope island are rounded to: its format where it is emulated."""
        return self.dtype.rope if isinstance(self.dtype.rope, Format) else self.host_dtype.rope


def make_runtime(
    backend: Backend,
    policy: Policy | str,
    kernels: str = "fused",
    rounding: Rounding = round_to,
) -> Runtime:
    """Join a backend and a policy.

    Args:
        backend: where to compute. What it lacks of the policy is emulated on it: see `xplm.emulation`.
        policy: a Policy, or the text of one.
        kernels: "fused" lets the backend replace kernels; "portable" runs the reference source on it; "invariant" has
            it replace them by those whose rows do not depend on what is computed beside them.
        rounding: as `emulate` takes it.

    Raises:
        RequestError: `kernels` or the policy's text is not one of these, or a blas is asked for that these kernels
            do not use.
        BackendError: the backend lacks float32, or float64 where the policy names it; its kernels lack so many
            threads as are asked for; it replaces a kernel that xplm does not have; or it has no kernels "invariant"
            for the policy.
    """
    if kernels not in KERNELS:
        hint = did_you_mean(str(kernels), KERNELS)
        raise RequestError(f'kernels are "fused", "portable" or "invariant"; got "{kernels}"{hint}')
    policy = Policy(policy)

    if kernels == "portable":  # the library's own products alone
        backend = replace(backend, blas=replace(backend.blas, multiply_narrow=None))
    backend = emulate(backend, policy, rounding)
    is_invariant = kernels == INVARIANT
    if is_invariant:
        _check_invariant(backend, policy)
        backend = replace(backend, kernels=backend.invariant)
    own = dict(backend.kernels) if kernels != "portable" else {}
    rules = dict(backend.rules) if kernels != "portable" else {}
    if own and backend.threads is not None:
        backend.compiler.check_threads(backend.threads)
    blas = backend.blas
    if not own and blas.asked not in (None, blas.own):
        raise RequestError(
            f'blas "{blas.asked}" is what fused kernels multiply by, and none run here (policy "{policy}", '
            f'kernels "{kernels}"); leave it out, or use "{blas.own}"'
        )
    if not own:  # none of these kernels makes the products that were measured
        backend = replace(backend, blas=replace(blas, rates=unmeasured))
    table = _make_table(backend.name, own, is_guarded=not is_invariant)
    dtype = policy.resolve(backend.dtypes, backend.name)
    host = {
        name: HOST_DTYPES["float32" if isinstance(found, Format) else name]
        for name, found in zip(policy.dtypes, dtype, strict=True)
    }
    host_dtype = policy.resolve(host, np.__name__)
    return Runtime(backend, policy, table, rules, dtype, host_dtype, is_invariant)


def _make_table(
    backend: str, own: Mapping[str, Callable[..., Any]], *, is_guarded: bool
) -> dict[str, Callable[..., Any]]:
    """The kernels of a runtime: a backend's own in the place of portable ones, which stand by if they are guarded."""
    portable = PORTABLE | FUSIONS
    if unknown := sorted(own.keys() - portable.keys()):
        raise BackendError(
            f'a backend\'s kernels replace ops and fusions of xplm; "{backend}" has {", ".join(unknown)}'
            f"{did_you_mean(unknown, portable)}; rules of optimizers belong in Backend.rules"
        )
    guarded = {
        name: _or_portable(kernel, portable[name]) if is_guarded else kernel
        for name, kernel in own.items()
    }
    return PORTABLE | _fusions_beside(own) | guarded


def has_invariant(backend: Backend, policy: Policy) -> bool:
    """Whether a backend has kernels "invariant" for a policy."""
    islands = {getattr(policy, part) for part in KEPT_APART}
    stored = {getattr(policy, part) for part in ("param", "compute", "cache", "loss")}
    return bool(backend.invariant) and islands == {"float32"} and stored <= set(INVARIANT_DTYPES)


def _check_invariant(backend: Backend, policy: Policy) -> None:
    """Refuse kernels "invariant" where a backend has none for a policy."""
    if not backend.invariant:
        raise BackendError(
            f'kernels "invariant" give the same bits whatever is computed beside; backend "{backend.name}" has none '
            'and cannot promise that; leave them out, or use backend "numpy" with a policy that is not emulated'
        )
    if not has_invariant(backend, policy):
        raise BackendError(
            f'kernels "invariant" compute in float32, of what is stored in {", ".join(INVARIANT_DTYPES)}; '
            f'got policy "{policy}"; use fp32, bf16 or fp16'
        )


def _or_portable(kernel: Callable[..., Any], portable: Callable[..., Any]) -> Callable[..., Any]:
    """A backend's kernel; where the backend cannot compile it, its portable twin. Both save the same for backward."""

    @wraps(kernel)
    def call(*arrays: Any, **options: Any) -> Any:
        try:
            return kernel(*arrays, **options)
        except KernelError:
            return portable(*arrays, **options)

    return call


def _fusions_beside(kernels: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """The portable fusions whose ops are all portable too, beside a backend's kernels.

    Any other would bypass the backend's op; and a portable backward pass cannot read what a backend's forward saved.
    """
    own = {name for name, kernel in kernels.items() if kernel is not PORTABLE.get(name)}
    return {name: fusion for name, fusion in FUSIONS.items() if MADE_OF[name].isdisjoint(own)}

"""What every layer function receives first: where to compute, with which kernels, in which dtypes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from xplm.backend import Backend
from xplm.errors import RequestError
from xplm.kernels import PORTABLE
from xplm.precision import HOST_DTYPES, Policy, PolicyDtypes


@dataclass(frozen=True)
class Runtime:
    """A backend and a policy, with the kernel table and the dtypes that follow from them."""

    backend: Backend
    policy: Policy
    kernels: Mapping[str, Callable[..., Any]]  # by function name: "rms_norm_fwd"
    dtype: PolicyDtypes  # the backend's dtype objects
    host_dtype: PolicyDtypes  # the same as NumPy dtypes
    ops: Any = field(init=False, repr=False)  # the kernel table, as attributes

    def __post_init__(self) -> None:
        """Spread the table out, so that a layer reads `rt.ops.rms_norm_fwd(...)`."""
        object.__setattr__(self, "ops", SimpleNamespace(**self.kernels))


def make_runtime(backend: Backend, policy: Policy | str, kernels: str = "fused") -> Runtime:
    """Join a backend and a policy.

    Args:
        backend: where to compute.
        policy: a Policy, or the text of one.
        kernels: "fused" lets the backend replace kernels; "portable" runs the reference source on it.

    Raises:
        RequestError: `kernels` or the policy's text is not one of these.
        BackendError: the backend lacks one of the policy's dtypes.
    """
    if kernels not in ("fused", "portable"):
        raise RequestError(f'kernels are "fused" or "portable"; got "{kernels}"')
    if isinstance(policy, str):
        policy = Policy.parse(policy)

    table = PORTABLE | dict(backend.kernels) if kernels == "fused" else PORTABLE
    dtype = policy.resolve(backend.dtypes, backend.name)
    return Runtime(backend, policy, table, dtype, policy.resolve(HOST_DTYPES, "numpy"))

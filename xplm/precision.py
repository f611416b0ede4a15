"""Precision as data: which dtype each part of the arithmetic runs in.

A policy names a dtype for what is stored (parameters, activations, cache) and one for each island, a part whose
arithmetic is kept apart because low precision ruins it:

    rope     angles, their cosines and sines, and the rotation: in bfloat16, position 15962 becomes 15936
    norm     means, variances and the normalised row
    softmax  attention scores, their exponentials and sums
    loss     logits on their way to a loss or a sampler

Islands are float32 unless the policy says otherwise: "bf16" keeps them all, "bf16,softmax=bf16" gives one up.
Matrix products accumulate in at least float32 under every policy, and their result is rounded once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import ml_dtypes
import numpy as np

from xplm.errors import BackendError, RequestError
from xplm.namespace import array_namespace
from xplm.typing import Array, DType, Namespace

SHORT_NAMES = {
    "fp64": "float64",
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
}

HOST_DTYPES: dict[str, np.dtype] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
"""NumPy's dtypes by array-API name: what files are read into and host tables are computed in."""


class PolicyDtypes(NamedTuple):
    """A policy's dtypes as objects of one array library."""

    param: DType
    compute: DType
    cache: DType
    rope: DType
    norm: DType
    softmax: DType
    loss: DType


@dataclass(frozen=True)
class Policy:
    """The dtype of every part, by its array-API name ("float32", "bfloat16", ...)."""

    param: str = "float32"  # weights at rest
    compute: str = "float32"  # activations between ops
    cache: str = "float32"  # keys and values of earlier positions
    rope: str = "float32"
    norm: str = "float32"
    softmax: str = "float32"
    loss: str = "float32"

    @classmethod
    def parse(cls, text: str) -> "Policy":
        """Read a policy such as "bf16" or "fp16,norm=fp16,cache=fp32".

        Args:
            text: a base ("fp64", "fp32", "fp16" or "bf16"), then any number of ",part=dtype".
                A base sets what is stored; islands stay float32 (float64 in "fp64").

        Returns:
            The policy.

        Raises:
            RequestError: a name is unknown, or a part is given twice.
        """
        base, *overrides = text.split(",")
        stored = _dtype_name(base, text)
        policy = cls(param=stored, compute=stored, cache=stored)
        if stored == "float64":
            policy = cls(*[stored] * len(fields(cls)))

        seen: set[str] = set()
        for override in overrides:
            part, _, short = override.partition("=")
            part = part.strip()
            if part not in {f.name for f in fields(cls)} or part in seen:
                known = ", ".join(f.name for f in fields(cls))
                raise RequestError(
                    f"a policy names each part once, out of {known}; "
                    f'got "{override}" in "{text}"; write, for example, "bf16,softmax=bf16"'
                )
            seen.add(part)
            policy = replace(policy, **{part: _dtype_name(short, text)})
        return policy

    def __str__(self) -> str:
        """The shortest text that `parse` reads back as this policy."""
        short = {long: name for name, long in SHORT_NAMES.items()}
        base = Policy.parse(short[self.compute])
        overrides = [
            f",{f.name}={short[getattr(self, f.name)]}"
            for f in fields(self)
            if getattr(self, f.name) != getattr(base, f.name)
        ]
        return short[self.compute] + "".join(overrides)

    def resolve(self, dtypes: Mapping[str, DType], backend: str) -> PolicyDtypes:
        """Look this policy's dtypes up in a backend's table.

        Args:
            dtypes: dtype objects by array-API name.
            backend: the backend's name, for the error message.

        Raises:
            BackendError: the backend lacks one of them.
        """
        names = [getattr(self, f.name) for f in fields(self)]
        for name in names:
            if name not in dtypes:
                raise BackendError(
                    f'policy "{self}" needs {name}, which backend "{backend}" lacks; '
                    f"it has {', '.join(sorted(dtypes))}"
                )
        return PolicyDtypes(*[dtypes[name] for name in names])


def wide_dtype(x: Array, xp: Namespace) -> DType:
    """float64 for float64, float32 for every narrower float: the dtype that sums and statistics run in."""
    return xp.float64 if x.dtype == xp.float64 else xp.float32


def cast(x: Array, dtype: DType) -> Array:
    """x in `dtype`: x itself where it has it, a rounded copy where it has not."""
    return x if x.dtype == dtype else array_namespace(x).astype(x, dtype)


def _dtype_name(short: str, text: str) -> str:
    short = short.strip()
    if short not in SHORT_NAMES:
        raise RequestError(
            f'a policy\'s dtypes are {", ".join(SHORT_NAMES)}; got "{short}" in "{text}"; '
            f'write, for example, "bf16" or "bf16,softmax=bf16"'
        )
    return SHORT_NAMES[short]

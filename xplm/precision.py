"""Precision as data: which dtype each part of the arithmetic runs in.

A policy names a dtype for what is stored (parameters, activations, cache) and one for each island, a part whose
arithmetic is kept apart because low precision ruins it:

    rope     angles, their cosines and sines, and the rotation: in bfloat16, position 15962 becomes 15936
    norm     means, variances and the normalised row
    softmax  attention scores, their exponentials and sums
    loss     logits on their way to a loss or a sampler

Islands are float32 unless the policy says otherwise: "bf16" keeps them all, "bf16,softmax=bf16" gives one up.
Matrix products take their operands as they are, accumulate in at least float32, and round their result once. Two more
parts change that, for experiments with hardware that does otherwise:

    matmul      what the operands of matrix products are rounded to first: "fp32,matmul=tf32"
    accumulate  what their partial sums are rounded to: "bf16,accumulate=bf16"

A dtype that a backend has runs as it is; one that it lacks ("fp8", "tf32", "e5m7") is emulated: see `xplm.emulation`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from reprlib import repr as shown  # a value of any length, cut short
from typing import NamedTuple, TypedDict, Unpack

import ml_dtypes
import numpy as np

from xplm.errors import BackendError, RequestError, did_you_mean
from xplm.formats import FORMATS, Format, find_format, format_of_bits, round_to
from xplm.namespace import array_namespace
from xplm.typing import Array, DType, Namespace

SHORT_NAMES = {
    "fp64": "float64",
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "tf32": "tf32",
    "fp8": "float8_e4m3fn",
    "fp8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
    "fp8_e4m3fnuz": "float8_e4m3fnuz",
    "fp8_e5m2fnuz": "float8_e5m2fnuz",
    "fp8_e4m3b11fnuz": "float8_e4m3b11fnuz",
    "fp6_e2m3": "float6_e2m3fn",
    "fp6_e3m2": "float6_e3m2fn",
    "fp4": "float4_e2m1fn",
    "fp4_e2m1": "float4_e2m1fn",
}
"""What a policy's text calls a dtype; the first name of several is the one that is printed. Beside them, "e5m7" means
5 exponent bits and 7 mantissa bits, with infinities and NaN as IEEE 754 has them."""

EXACT = ("float32", "float64")
"""As `matmul` and `accumulate`, these round nothing: no product runs in less."""

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


class PolicyParts(TypedDict, total=False):
    """The fields of Policy, as keywords."""

    param: str
    compute: str
    cache: str
    rope: str
    norm: str
    softmax: str
    loss: str
    matmul: str
    accumulate: str


@dataclass(frozen=True, init=False, repr=False)
class Policy:
    """The dtype of every part, by its name in `xplm.formats` ("float32", "bfloat16", "float8_e4m3fn", ...)."""

    param: str
    """Weights at rest."""
    compute: str
    """Activations between ops."""
    cache: str
    """Keys and values of earlier positions."""
    rope: str
    """Angles of positions, and the rotation by them."""
    norm: str
    """Means, variances and the normalised row."""
    softmax: str
    """Attention scores, their exponentials and sums."""
    loss: str
    """Logits on their way to a loss or a sampler."""
    matmul: str
    """Operands of matrix products; float32 and float64 round nothing."""
    accumulate: str
    """Partial sums of matrix products; float32 and float64 round nothing."""

    def __init__(self, base: "str | Policy" = "fp32", **parts: Unpack[PolicyParts]) -> None:
        """A base, with other dtypes for some parts: Policy("bf16", softmax="bf16").

        Args:
            base: a text as `parse` takes it, or a policy.
            parts: dtypes, by their names in a policy's text or in `xplm.formats`.

        Raises:
            RequestError: the base is neither, or a name is unknown.
        """
        names = [f.name for f in fields(self)]
        if unknown := [name for name in parts if name not in names]:
            raise RequestError(
                f"a policy's parts are {', '.join(names)}; got unknown {', '.join(unknown)}"
                f"{did_you_mean(unknown, names)}"
            )
        for name, dtype in zip(names, _dtypes(base), strict=True):
            given = parts.get(name, dtype)
            object.__setattr__(self, name, dtype if given == dtype else _part_dtype(name, given))

    @classmethod
    def parse(cls, text: str) -> "Policy":
        """Read a policy such as "bf16" or "fp16,norm=fp16,cache=fp32"; Policy(text) does the same.

        Args:
            text: a base ("fp64", "fp32", "fp16", "bf16", "tf32", "fp8", "e5m7", ...), then any number of
                ",part=dtype". A base sets what is stored; the others stay float32 (float64 in "fp64").

        Returns:
            The policy.

        Raises:
            RequestError: a name is unknown, or a part is given twice.
        """
        return cls(text)

    def __repr__(self) -> str:
        """The policy as a call that makes it: Policy("bf16,softmax=bf16")."""
        return f'Policy("{self}")'

    def __str__(self) -> str:
        """The shortest text that `parse` reads back as this policy."""
        stored = _short_name(self.compute)
        base = Policy.parse(stored)
        overrides = [
            f",{f.name}={_short_name(getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != getattr(base, f.name)
        ]
        return stored + "".join(overrides)

    @property
    def dtypes(self) -> PolicyDtypes:
        """The names of the parts that are dtypes of arrays: all but `matmul` and `accumulate`."""
        return PolicyDtypes(*[getattr(self, part) for part in PolicyDtypes._fields])

    def resolve(self, dtypes: Mapping[str, DType], backend: str) -> PolicyDtypes:
        """Look this policy's dtypes up in a backend's table.

        Args:
            dtypes: dtype objects by array-API name.
            backend: the backend's name, for the error message.

        Raises:
            BackendError: the backend lacks one of them.
        """
        for name in self.dtypes:
            if name not in dtypes:
                raise BackendError(
                    f'policy "{self}" needs {name}, which backend "{backend}" lacks; '
                    f"it has {', '.join(sorted(dtypes))}"
                )
        return PolicyDtypes(*[dtypes[name] for name in self.dtypes])


def wide_dtype(x: Array, xp: Namespace) -> DType:
    """float64 for float64, float32 for every narrower float: the dtype that sums and statistics run in."""
    return xp.float64 if x.dtype == xp.float64 else xp.float32


def cast(x: Array, dtype: DType) -> Array:
    """x in `dtype`: x itself where it has it, a rounded copy where it has not."""
    return x if x.dtype == dtype else array_namespace(x).astype(x, dtype)


def scaled(x: Array, factor: float) -> Array:
    """x * factor in x's dtype, neither of them rounded before; x itself for a factor of 1."""
    if factor == 1.0:
        return x
    return cast(cast(x, wide_dtype(x, array_namespace(x))) * factor, x.dtype)


def cast_host(x: np.ndarray, dtype: np.dtype | Format) -> np.ndarray:
    """x in a NumPy dtype, or float32 numbers rounded to a format."""
    if isinstance(dtype, Format):
        return round_to(x.astype(np.float32), dtype)
    return x.astype(dtype, copy=False)


def _dtypes(base: str | Policy) -> list[str]:
    """The dtype of each field of a policy, or of its text."""
    names = [f.name for f in fields(Policy)]
    if isinstance(base, Policy):
        return [getattr(base, name) for name in names]
    if not isinstance(base, str):
        raise RequestError(
            f'a policy is a text such as "bf16,softmax=bf16", or a Policy; got {shown(base)}'
        )
    stored, *overrides = base.split(",")
    stored = _dtype_name(stored, base)
    others = "float64" if stored == "float64" else "float32"
    dtypes = dict.fromkeys(names, others) | dict.fromkeys(("param", "compute", "cache"), stored)

    seen: set[str] = set()
    for override in overrides:
        part, _, short = override.partition("=")
        part = part.strip()
        if part not in names or part in seen:
            raise RequestError(
                f"a policy names each part once, out of {', '.join(names)}; "
                f'got "{override}" in "{base}"; write, for example, "bf16,softmax=bf16"'
                + ("" if part in seen else did_you_mean(part, names))
            )
        seen.add(part)
        dtypes[part] = _dtype_name(short, base)
    return list(dtypes.values())


def _part_dtype(part: str, dtype: object) -> str:
    """The name in `xplm.formats` of a part's dtype, which may be a short one."""
    if not isinstance(dtype, str):
        raise RequestError(f'a part\'s dtype is a text such as "bf16"; got {part}={shown(dtype)}')
    return dtype if dtype in FORMATS else _dtype_name(dtype, f"{part}={dtype}")


def _dtype_name(short: str, text: str) -> str:
    short = short.strip()
    if short in SHORT_NAMES:
        return SHORT_NAMES[short]
    format = format_of_bits(short)
    if format is None:
        raise RequestError(
            f"a policy's dtypes are {', '.join(SHORT_NAMES)}, or bits such as e5m7 (2 to 8, and 1 to 23); "
            f'got "{short}" in "{text}"; write, for example, "bf16" or "bf16,softmax=bf16"'
            f"{did_you_mean(_short_name(short) if short in FORMATS else short, SHORT_NAMES)}"
        )
    return format.name


def _short_name(name: str) -> str:
    """The first short name of a dtype; those that have none are called by their bits."""
    for short, long in SHORT_NAMES.items():
        if long == name:
            return short
    format = find_format(name)
    return f"e{format.exponent_bits}m{format.mantissa_bits}"

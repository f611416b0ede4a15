"""Groups of flags: spread out for typer, gathered for the command, and written down again."""

import inspect
from dataclasses import dataclass

import pytest

from xplm.cli.flags import ModelFlags, WhereFlags, takes_flags
from xplm.errors import BackendError, RequestError


@dataclass(frozen=True)
class Inner:
    a: int = 1
    b: int = 2


@dataclass(frozen=True)
class Outer:
    c: int = 3
    inner: Inner = Inner()
    d: int = 4


@dataclass(frozen=True)
class Beside:
    e: int = 5


def test_a_group_in_a_group_and_one_beside_it_are_spread_and_gathered():
    received = []

    def command(outer: Outer, beside: Beside, f: int) -> None:
        received.append((outer, beside, f))

    spread = takes_flags(command)
    assert list(inspect.signature(spread).parameters) == ["c", "a", "b", "d", "e", "f"]
    spread(a=10, b=20, c=30, d=40, e=50, f=60)
    assert received == [(Outer(30, Inner(10, 20), 40), Beside(50), 60)]


def test_what_a_model_computes_on_is_read_from_it():
    flags = ModelFlags(where=WhereFlags(device="cuda", backend="strict", kernels="portable"))
    assert (flags.device, flags.backend, flags.kernels) == ("cuda", "strict", "portable")


def test_flags_that_are_not_the_default_are_written_down():
    assert WhereFlags().not_default() == []
    assert WhereFlags("cuda", "strict", "portable", 2).not_default() == (
        ["--device", "cuda", "--backend", "strict", "--kernels", "portable", "--threads", "2"]
    )
    assert WhereFlags(invariant=True).not_default() == ["--invariant"]


def test_invariant_is_short_for_its_kernels():
    assert WhereFlags(invariant=True).kernel_table == "invariant"
    assert ModelFlags(where=WhereFlags(invariant=True)).kernels == "invariant"
    assert WhereFlags(kernels="invariant", invariant=True).runtime("fp32").is_invariant
    with pytest.raises(RequestError, match="leave one out"):
        WhereFlags(kernels="portable", invariant=True).runtime("fp32")


def test_a_runtime_is_of_the_backend_and_policy_asked_for():
    rt = WhereFlags(device="cuda", backend="strict").runtime("fp64")
    assert (rt.backend.name, rt.backend.device_name, str(rt.policy)) == ("strict", "cuda", "fp64")
    with pytest.raises(BackendError, match="nonesuch"):
        WhereFlags(backend="nonesuch").runtime("fp32")

"""The declared parts of each fusion are the ops and the fusions that its code calls."""

from itertools import chain
from types import FunctionType

import pytest

from xplm.kernels import PORTABLE
from xplm.kernels.fusions import FUSIONS, MADE_OF
from xplm.kernels.fusions.cached_attention import cached_attention
from xplm.kernels.rope import rope_fwd


def called(function):
    """Names of the ops and fusions that a function's code refers to, also in its inner functions, in tables of ops, and
    in the fusions and their parts that it calls.
    """
    codes, names = [function.__code__], set()
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes += [constant for constant in code.co_consts if hasattr(constant, "co_names")]
    values = [function.__globals__.get(name) for name in names]
    tables = [value.values() for value in values if isinstance(value, dict)]
    found = [*values, *chain.from_iterable(tables)]
    ops = {op.__name__ for op in found if op in PORTABLE.values()}
    fusions = [fusion for fusion in found if fusion in FUSIONS.values()]
    helpers = [
        value
        for value in found
        if getattr(value, "__module__", "").startswith(
            ("xplm.kernels.fusions", "xplm.kernels.parts")
        )
        and isinstance(value, FunctionType)
    ]
    return ops.union({f.__name__ for f in fusions}, *[called(helper) for helper in helpers])


@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_is_made_of_what_it_calls(name):
    op, direction = name.removesuffix("_fwd").removesuffix("_bwd"), name[-4:]
    pair = [f"{op}_fwd", f"{op}_bwd"] if direction in ("_fwd", "_bwd") else [name]
    assert MADE_OF[name] == set().union(*[called(FUSIONS[half]) for half in pair])


def test_a_call_in_an_inner_function_and_in_a_fusion_is_seen():
    assert called(lambda x: [lambda: rope_fwd(x)]) == {"rope_fwd"}
    within = called(lambda x: cached_attention(x, None, scale=1.0))
    assert within == {"attention_fwd", "cached_attention"}

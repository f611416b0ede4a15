import pickle
from dataclasses import replace

import numpy as np
import pytest

from xplm.backend import load_backend
from xplm.errors import BackendError, RequestError
from xplm.precision import HOST_DTYPES, Policy, cast, wide_dtype

LONG = {
    "fp64": "float64",
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "tf32": "tf32",
    "fp8": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
    "e5m7": "e5m7",
    "e4m3": "float8_e4m3",
}
STORED = ("param", "compute", "cache")
ISLANDS = ("rope", "norm", "softmax", "loss", "matmul", "accumulate")


@pytest.mark.parametrize("base", [base for base in LONG if base != "fp64"])
def test_a_base_sets_what_is_stored_and_leaves_the_islands_alone(base):
    policy = Policy.parse(base)
    assert {getattr(policy, part) for part in STORED} == {LONG[base]}
    assert {getattr(policy, part) for part in ISLANDS} == {"float32"}


def test_float64_widens_the_islands_as_well():
    policy = Policy.parse("fp64")
    assert {getattr(policy, part) for part in (*STORED, *ISLANDS)} == {"float64"}


def test_a_policy_is_made_of_a_text_or_a_policy_and_its_exceptions():
    policy = Policy.parse("bf16,softmax=bf16")
    assert Policy("bf16,softmax=bf16") == policy == Policy("bf16", softmax="bf16")
    assert Policy("bf16", softmax="bfloat16") == policy == Policy(Policy("bf16"), softmax="bf16")
    assert Policy() == Policy("fp32")
    assert hash(Policy("bf16")) == hash(Policy.parse("bf16"))
    assert replace(policy, softmax="float32") == Policy("bf16")
    assert eval(repr(policy)) == policy == pickle.loads(pickle.dumps(policy))


@pytest.mark.parametrize("base", [None, 16, b"bf16", np.float32])
def test_what_is_no_policy_is_refused(base):
    with pytest.raises(RequestError, match="a policy is a text such as"):
        Policy(base)
    with pytest.raises(RequestError, match=r"a part's dtype is a text|a policy's dtypes are"):
        Policy(softmax=base if base is not None else "fp7")


def test_near_names_are_guessed():
    for make, meant in (
        (lambda: Policy("FP16"), "fp16"),
        (lambda: Policy("float32"), "fp32"),
        (lambda: Policy("bf16,nrom=fp32"), "norm"),
        (lambda: Policy("bf16", sofmax="fp32"), "softmax"),
        (lambda: Policy("bf16", softmax="pf16"), "fp16"),
    ):
        with pytest.raises(RequestError, match=rf"did you mean {meant}\?$"):
            make()


@pytest.mark.parametrize("part", [*STORED, *ISLANDS])
@pytest.mark.parametrize("dtype", list(LONG))
def test_an_override_changes_one_part(part, dtype):
    policy, base = Policy.parse(f"bf16,{part}={dtype}"), Policy.parse("bf16")
    for other in (*STORED, *ISLANDS):
        expected = LONG[dtype] if other == part else getattr(base, other)
        assert getattr(policy, other) == expected


@pytest.mark.parametrize(
    ("text", "shortest"),
    [
        ("fp32", "fp32"),
        ("bf16,softmax=bf16", "bf16,softmax=bf16"),
        ("fp16, norm = fp16 ,cache=fp32", "fp16,cache=fp32,norm=fp16"),
        ("bf16,rope=fp32", "bf16"),
        ("fp64,loss=fp32", "fp64,loss=fp32"),
        ("fp8_e4m3,accumulate=bf16,matmul=fp8_e5m2", "fp8,matmul=fp8_e5m2,accumulate=bf16"),
        ("e8m7,norm=e5m10,rope=e8m23,loss=e8m10", "bf16,norm=fp16,loss=tf32"),
        ("fp32,matmul=tf32", "fp32,matmul=tf32"),
    ],
)
def test_text_round_trips_in_its_shortest_form(text, shortest):
    policy = Policy.parse(text)
    assert str(policy) == shortest
    assert Policy.parse(str(policy)) == policy


@pytest.mark.parametrize("base", list(LONG))
@pytest.mark.parametrize("part", [*STORED, *ISLANDS])
def test_every_single_override_round_trips(base, part):
    for dtype in LONG:
        policy = Policy.parse(f"{base},{part}={dtype}")
        assert Policy.parse(str(policy)) == policy


@pytest.mark.parametrize(
    ("text", "received"),
    [
        ("fp7", '"fp7"'),
        ("e9m2", '"e9m2"'),
        ("bf16,norm=e5m0", '"e5m0"'),
        ("", '""'),
        ("float32", '"float32"'),
        ("bf16,softmax", '"bf16,softmax"'),
        ("bf16,softmax=", '""'),
        ("bf16,attention=fp32", '"attention=fp32"'),
        ("bf16,norm=fp16,norm=fp32", '"norm=fp32"'),
        ("bf16,", '""'),
    ],
)
def test_a_bad_policy_is_one_line_that_shows_what_was_received(text, received):
    with pytest.raises(RequestError) as error:
        Policy.parse(text)
    message = str(error.value)
    assert "\n" not in message
    assert received in message


def test_dtypes_resolve_to_the_backends_own_objects():
    strict = load_backend("strict")
    dtypes = Policy.parse("fp32,norm=fp64").resolve(strict.dtypes, "strict")
    assert dtypes.compute is strict.xp.float32
    assert dtypes.norm is strict.xp.float64
    with pytest.raises(BackendError, match='"strict" lacks') as error:
        Policy.parse("bf16").resolve(strict.dtypes, "strict")
    assert "bfloat16" in str(error.value)
    assert "float32, float64" in str(error.value)


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        ("float64", "float64"),
        ("float32", "float32"),
        ("float16", "float32"),
        ("bfloat16", "float32"),
    ],
)
def test_wide_is_at_least_float32_and_keeps_float64(dtype, wide):
    assert wide_dtype(np.zeros(1, HOST_DTYPES[dtype]), np) == HOST_DTYPES[wide]


def test_cast_copies_only_where_the_dtype_changes():
    x = np.array([1.0, 1.0 + 2.0**-9], np.float32)
    assert cast(x, HOST_DTYPES["float32"]) is x
    rounded = cast(x, HOST_DTYPES["bfloat16"])
    assert rounded.dtype == HOST_DTYPES["bfloat16"]
    assert rounded.astype(np.float32).tolist() == [1.0, 1.0]  # bfloat16's eps is 2^-7

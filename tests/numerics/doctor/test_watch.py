"""What is called of an array library, written down."""

import numpy as np
import pytest

from tests.generate.tiny import tiny_model
from xplm.backend import load_backend
from xplm.numerics.doctor.watch import Call, watch
from xplm.numerics.op_cases import OPS
from xplm.numerics.parity.check_model import check_model
from xplm.numerics.parity.check_ops import check_op
from xplm.numerics.tiny_models import TINY_MODELS, tiny_config
from xplm.runtime import make_runtime

MOVES = {"astype", "concat", "permute_dims", "reshape", "take", "where", "zeros_like"}
ARITHMETIC = {"add", "mul"}


def test_functions_operators_and_products_are_noted(numpy_backend):
    backend, calls = watch(numpy_backend)
    xp, float16 = backend.xp, numpy_backend.dtypes["float16"]
    x = backend.from_host(np.array([[1.0, 2.0]], np.float32))
    y = xp.astype(x, float16)
    z = xp.concat([y, y]) * 2.0
    assert [*calls] == [
        Call("astype", (x.dtype,)),
        Call("concat", (float16, float16)),
        Call("mul", (float16,)),
    ]
    calls.clear()
    np.testing.assert_array_equal(backend.to_host(z @ x.T), [[10.0], [10.0]])
    assert calls == [Call("matmul", (float16, x.dtype))]


@pytest.mark.parametrize(
    ("policy", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16")], ids=["bf16", "fp16"]
)
def test_in_16_bits_numbers_are_moved_added_and_multiplied_and_that_is_all(policy, dtype):
    """So no library's 16-bit products, sums, maxima, exponentials or sorts can do harm, forward or backward."""
    clean = load_backend("numpy")
    backend, calls = watch(clean)
    test, reference = make_runtime(backend, policy), make_runtime(clean, "fp64", "portable")
    for op in OPS:
        check_op(test, reference, op)
    for name in ("llama", "gpt2"):
        check_model(test, reference, tiny_config(TINY_MODELS[name]), draws=1)
    tiny_model(2, policy, backend).generate("Once upon", max_new_tokens=2)

    used = {call.function for call in calls if clean.dtypes[dtype] in call.dtypes}
    assert ARITHMETIC < used <= MOVES | ARITHMETIC
    assert {"matmul", "exp", "max", "sum"} < {call.function for call in calls}

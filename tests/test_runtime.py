from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from xplm.errors import BackendError, KernelError, RequestError
from xplm.generate.engine import Engine
from xplm.kernels import PORTABLE
from xplm.kernels.fusions import FUSIONS
from xplm.models.decoder import param_specs
from xplm.numerics.check_layers import check_layer
from xplm.numerics.gradient_check import OP_LIMIT
from xplm.numerics.tiny_models import tiny_config
from xplm.params import init_params
from xplm.precision import Policy
from xplm.runtime import make_runtime


def uncompiled(*_, **__):
    raise KernelError("its compiler fails")


def double(x, *_):
    return 2 * x, None


def test_ops_are_the_kernel_table(numpy_backend):
    rt = make_runtime(numpy_backend, "fp32", kernels="portable")
    assert dict(rt.kernels) == PORTABLE | FUSIONS
    for name, kernel in rt.kernels.items():
        assert getattr(rt.ops, name) is kernel


def test_a_backend_replaces_kernels_by_name_unless_told_not_to(numpy_backend):
    backend = replace(numpy_backend, kernels={"gelu_fwd": double})
    fused = make_runtime(backend, "fp32")
    assert fused.ops.gelu_fwd(3.0) == (6.0, None)
    assert fused.ops.swiglu_fwd is PORTABLE["swiglu_fwd"]
    assert make_runtime(backend, "fp32", kernels="portable").ops.gelu_fwd is PORTABLE["gelu_fwd"]
    assert PORTABLE["gelu_fwd"] is not double


def test_a_kernel_that_its_backend_cannot_compile_is_the_portable_one(numpy_backend):
    kernels, rules = {"gelu_fwd": uncompiled}, {"double": uncompiled}
    rt = make_runtime(replace(numpy_backend, kernels=kernels, rules=rules), "fp32")
    x = np.ones(3, np.float32)
    np.testing.assert_array_equal(rt.ops.gelu_fwd(x)[0], PORTABLE["gelu_fwd"](x)[0])
    assert rt.fused(double)(3.0) == (6.0, None)


def test_rules_of_optimizers_stand_apart_from_kernels(numpy_backend):
    backend = replace(numpy_backend, kernels={}, rules={"double": lambda x: 3 * x})
    rt = make_runtime(backend, "fp32")
    assert rt.fused(double)(1.0) == 3.0
    assert dict(rt.kernels) == PORTABLE | FUSIONS
    assert rt.fused(uncompiled) is uncompiled
    assert make_runtime(backend, "fp32", kernels="portable").fused(double) is double
    assert make_runtime(backend, "fp8").fused(double) is double
    assert make_runtime(numpy_backend, "fp32").fused(PORTABLE["gelu_fwd"]) is PORTABLE["gelu_fwd"]


@pytest.mark.parametrize("name", ["gelu_fw", "adamw_rule", "gelu"])
def test_a_kernel_that_no_op_or_fusion_has_is_refused(numpy_backend, name):
    backend = replace(numpy_backend, kernels={name: double})
    with pytest.raises(BackendError, match=f'"numpy" has {name}.*Backend.rules') as error:
        make_runtime(backend, "fp32")
    assert "\n" not in str(error.value)
    assert make_runtime(backend, "fp32", kernels="portable").has("gelu_fwd")


@pytest.mark.parametrize("more", [{}, {"add_rms_norm_fwd": FUSIONS["add_rms_norm_fwd"]}], ids=len)
def test_a_backends_own_norm_is_not_gone_back_from_by_another(numpy_backend, more):
    """It saves what it likes, here the normalised row in place of x."""

    def forward(x, weight, *, eps, island=None):
        rstd = 1.0 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
        return x * rstd * weight, (x * rstd, weight, rstd)

    def backward(dy, saved):
        n, weight, rstd = saved
        dn = dy * weight
        dx = rstd * (dn - n * np.mean(dn * n, axis=-1, keepdims=True))
        return dx, np.sum((dy * n).reshape(-1, n.shape[-1]), axis=0)

    norm = {"rms_norm_fwd": forward, "rms_norm_bwd": backward}
    own = replace(numpy_backend, kernels=norm | more)
    for error in check_layer(own, "fused", "block", "llama, K < H"):
        assert error.error <= OP_LIMIT, error


NORMS = ("rms_norm_fwd", "layer_norm_fwd")
ACTIVATIONS = ("swiglu_fwd", "gelu_fwd", "gelu_erf_fwd", "relu_fwd", "relu2_fwd")
OPS_OF = {
    "add_rms_norm_fwd": {"rms_norm_fwd", "rms_norm_bwd"},
    "add_rms_norm_bwd": {"rms_norm_fwd", "rms_norm_bwd"},
    "cached_attention": {"attention_fwd"},
    "absorbed_attention": {"attention_fwd"},
    "norm_attention_residual": {*NORMS, "linear_fwd", "rope_fwd", "attention_fwd"},
    "norm_mlp_residual": {*NORMS, *ACTIVATIONS, "linear_fwd"},
    "bind_blocks": set(),  # of halves that it is given
}


@pytest.mark.parametrize("op", [*sorted(set().union(*OPS_OF.values())), "dropout_fwd"])
def test_a_portable_fusion_gives_way_to_a_backends_own_op(numpy_backend, op):
    own = replace(numpy_backend, kernels=PORTABLE | {op: partial(PORTABLE[op])})
    left = {fusion for fusion, ops in OPS_OF.items() if op not in ops}
    assert make_runtime(own, "fp32").kernels.keys() & FUSIONS.keys() == left
    assert make_runtime(own, "fp32", "portable").kernels.keys() >= FUSIONS.keys()

    fusions = replace(own, kernels={**own.kernels, **FUSIONS})
    assert make_runtime(fusions, "fp32").kernels.keys() >= FUSIONS.keys()


@pytest.mark.parametrize("fusions", [(), ("norm_mlp_residual",), ("bind_blocks",)], ids=str)
@pytest.mark.parametrize("name", ["linear_fwd", "swiglu_fwd", "rms_norm_fwd", "attention_fwd"])
def test_decoding_computes_with_a_backends_own_op(numpy_backend, name, fusions):
    """Unless a fusion of the backend's own stands in its place."""
    calls = []

    def own(*arguments, **options):
        calls.append(name)
        return PORTABLE[name](*arguments, **options)

    config = tiny_config({"model_type": "llama"})

    def decode(kernels):
        rt = make_runtime(replace(numpy_backend, kernels=kernels), "fp32")
        engine = Engine(rt, config, init_params(rt, param_specs(config), seed=0))
        cache = engine.allocate(1, 3)
        engine.feed(cache, np.asarray([[1, 2]]))
        calls.clear()
        return engine.feed(cache, np.asarray([[3]]))

    with_own = decode({name: own} | {fusion: FUSIONS[fusion] for fusion in fusions})
    is_replaced = name == "swiglu_fwd" and "norm_mlp_residual" in fusions
    assert len(calls) == 0 if is_replaced else len(calls) >= config.num_hidden_layers
    np.testing.assert_array_equal(with_own, decode({}))


def test_policy_is_text_or_a_value(numpy_backend):
    rt = make_runtime(numpy_backend, "bf16,norm=fp16")
    assert rt.policy == Policy.parse("bf16,norm=fp16")
    assert make_runtime(numpy_backend, rt.policy).dtype == rt.dtype
    assert rt.dtype.norm == rt.host_dtype.norm == np.float16


def test_host_dtypes_are_numpys_on_every_backend(backend):
    rt = make_runtime(backend, "fp32,rope=fp64")
    assert rt.host_dtype.rope == np.float64
    assert rt.host_dtype.compute == np.float32
    assert rt.dtype.rope == backend.dtypes["float64"]


def test_what_is_not_there_is_refused(numpy_backend):
    with pytest.raises(RequestError, match='"fused", "portable" or "invariant"; got "fast"'):
        make_runtime(numpy_backend, "fp32", kernels="fast")
    with pytest.raises(RequestError, match="fp7"):
        make_runtime(numpy_backend, "fp7")
    without = replace(numpy_backend, dtypes={"float32": np.dtype(np.float32)})
    with pytest.raises(BackendError, match="float64"):
        make_runtime(without, "fp32,rope=fp64")
    narrow = replace(numpy_backend, dtypes={"float16": np.dtype(np.float16)})
    with pytest.raises(BackendError, match="float32"):
        make_runtime(narrow, "fp16,rope=fp16,norm=fp16,softmax=fp16,loss=fp8")

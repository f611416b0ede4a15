"""The stages of a training pass: who is trained decides what is computed, and a block's own loss is counted once."""

from collections import Counter
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest

from tests.tiny import draw_ids, make_config, make_params
from xplm.layers.mlp import mlp_bwd, mlp_fwd, mlp_specs
from xplm.layers.table import LAYERS, Layer
from xplm.models.decoder import EMBEDDING
from xplm.models.training import loss_and_grads
from xplm.numerics.gradient_check import check_gradients
from xplm.runtime import make_runtime
from xplm.specs import MLPSpec

B, T = 2, 5


def run_pass(rt, config, params, **options):
    ids, targets = draw_ids(1, B, T), draw_ids(2, B, T)
    return loss_and_grads(rt, config, params, ids, targets, n_targets=B * T, **options)


def counted(rt):
    """A runtime that counts the calls of its ops, and those of frozen ones apart."""
    calls = Counter()

    def counting(name, kernel):
        def call(*arrays, **options):
            calls[name + (" frozen" if options.get("is_frozen") else "")] += 1
            return kernel(*arrays, **options)

        return call

    kernels = {name: counting(name, kernel) for name, kernel in rt.kernels.items()}
    return replace(rt, kernels=kernels), calls


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"model_type": "gpt2"}])
def test_each_gradient_is_handed_out_once_and_a_tied_table_last(numpy_backend, changes):
    rt, config = make_runtime(numpy_backend, "fp32"), make_config(**changes)
    params = make_params(rt, config)
    _, grads = run_pass(rt, config, params)
    handed = []
    _, none = run_pass(rt, config, params, on_grad=lambda name, grad: handed.append((name, grad)))
    assert none == {}
    assert sorted(name for name, _ in handed) == sorted(params)
    for name, grad in handed:
        np.testing.assert_array_equal(grad, grads[name], err_msg=name)
    if config.tie_word_embeddings:
        names = [name for name, _ in handed]
        last_block = max(i for i, name in enumerate(names) if ".layers." in name)
        assert names.index(EMBEDDING) > last_block


def test_only_what_is_trained_is_computed(numpy_backend):
    rt, calls = counted(make_runtime(numpy_backend, "fp32", "portable"))
    config = make_config(num_hidden_layers=3)
    params = make_params(rt, config)
    _, grads = run_pass(rt, config, params)

    calls.clear()
    trainable = {"model.layers.1.mlp.up_proj.weight", "model.norm.weight"}
    _, some = run_pass(rt, config, params, trainable=trainable)
    assert some.keys() == trainable
    for name, grad in some.items():
        np.testing.assert_array_equal(grad, grads[name], err_msg=name)
    assert calls["embedding_bwd"] == 0
    assert calls["linear_bwd"] == 1
    assert calls["linear_bwd frozen"] == 2 * 7 - 1  # of blocks 2 and 1; block 0 is not reached
    assert calls["linear_cross_entropy_bwd frozen"] == 1
    assert calls["attention_bwd"] == 2


def test_a_head_alone_needs_no_block(numpy_backend):
    rt, calls = counted(make_runtime(numpy_backend, "fp32", "portable"))
    config = make_config()
    params = make_params(rt, config)
    _, grads = run_pass(rt, config, params, trainable={"lm_head.weight"})
    assert list(grads) == ["lm_head.weight"]
    assert (calls["linear_cross_entropy_bwd"], calls["attention_bwd"]) == (1, 0)


@dataclass(frozen=True)
class PenalisedSpec(MLPSpec):
    """An MLP with a loss of its own: WEIGHT times the mean square of its input."""


WEIGHT = 0.3


def penalised_fwd(rt, spec, params, name, x, context):
    y, saved = mlp_fwd(rt, spec, params, name, x, context)
    if context.auxiliary is not None:
        context.auxiliary.add(WEIGHT * (x * x).mean())
    return y, (saved, x, context.auxiliary)


def penalised_bwd(rt, spec, name, dy, saved, grads):
    inner, x, auxiliary = saved
    return mlp_bwd(rt, spec, name, dy, inner, grads) + auxiliary.gradient * WEIGHT * 2 * x / x.size


@pytest.fixture
def penalised(monkeypatch):
    monkeypatch.setitem(LAYERS, PenalisedSpec, Layer(mlp_specs, penalised_fwd, penalised_bwd))
    config = make_config()
    mlp = config.blocks[1].mlp
    values = {field.name: getattr(mlp, field.name) for field in fields(mlp)}
    block = replace(config.blocks[1], mlp=PenalisedSpec(**values))
    return replace(config, blocks=(config.blocks[0], block))


@pytest.mark.parametrize("recompute", [False, True])
def test_a_blocks_own_loss_is_counted_once_and_differentiated(numpy_backend, penalised, recompute):
    rt = make_runtime(numpy_backend, "fp64")
    params = make_params(rt, penalised)
    plain = replace(penalised, blocks=(penalised.blocks[0],) * 2)
    share = 0.25

    def total():
        return float(run_pass(rt, penalised, params, share=share, recompute=recompute)[0])

    inputs = []
    layer = LAYERS[PenalisedSpec]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            LAYERS,
            PenalisedSpec,
            layer._replace(fwd=lambda *args: inputs.append(args[4]) or penalised_fwd(*args)),
        )
        loss = total()
    expected = float(run_pass(rt, plain, params)[0]) + share * WEIGHT * (inputs[0] ** 2).mean()
    assert loss == pytest.approx(expected, rel=1e-12)
    assert len(inputs) == 1 + recompute

    _, grads = run_pass(rt, penalised, params, share=share, recompute=recompute)
    names = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.post_attention_layernorm.weight"]
    for error in check_gradients(total, {n: params[n] for n in names}, grads, entries=4):
        assert error.error <= 1e-6, error


def test_a_loss_scale_multiplies_the_gradient_of_a_blocks_own_loss_too(numpy_backend, penalised):
    rt = make_runtime(numpy_backend, "fp64")
    params = make_params(rt, penalised)
    loss, grads = run_pass(rt, penalised, params)
    scaled_loss, scaled = run_pass(rt, penalised, params, loss_scale=8.0)
    assert float(loss) == float(scaled_loss)
    for name, grad in grads.items():
        np.testing.assert_allclose(scaled[name], 8.0 * grad, rtol=1e-12, err_msg=name)

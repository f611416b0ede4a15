"""Routed experts: against a loop over tokens, and all that a router adds to a pass."""

from dataclasses import replace

import numpy as np
import pytest

from tests import naive
from tests.helpers import Place, assert_close, pure
from tests.tiny import draw_ids, make_config, make_params
from xplm.layers.experts import CORRECTION, experts_fwd
from xplm.models.decoder import make_context
from xplm.models.training import loss_and_grads
from xplm.numerics.gradient_check import MODEL_LIMIT, check_gradients
from xplm.runtime import make_runtime
from xplm.specs import ClampSpec, ExpertsSpec, MLPSpec, RouterSpec

NAME = "model.layers.1.mlp"
B, T = 2, 5
BY_SUM = RouterSpec("softmax", is_normalised=True)
SHARED = MLPSpec(10, "silu", is_gated=True, bias=False)
SPECS = {
    "mixtral": ExpertsSpec(4, 2, 6, BY_SUM),
    "gpt_oss": ExpertsSpec(4, 2, 6, replace(BY_SUM, bias=True), bias=True, clamp=ClampSpec(1.702, 0.5)),
    "qwen2_moe": ExpertsSpec(
        5, 3, 6, RouterSpec("softmax", is_normalised=False), shared=SHARED, is_shared_gated=True
    ),
    "deepseek_v3": ExpertsSpec(
        6,
        2,
        6,
        RouterSpec(
            "sigmoid",
            is_normalised=True,
            factor=2.5,
            has_correction=True,
            num_groups=3,
            kept_groups=2,
            group_score="best two",
        ),
        shared=SHARED,
    ),
    "one of four": ExpertsSpec(4, 1, 6, BY_SUM),
}  # fmt: skip
BALANCED = replace(SPECS["mixtral"], router=replace(BY_SUM, balance=0.3))


def routed(spec):
    config = make_config()
    return replace(config, blocks=tuple(replace(b, mlp=spec) for b in config.blocks))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def naive_experts(spec, p, name, x):
    """One token at a time, one expert at a time: y, and softmax scores and choices of each token."""

    def project(part, rows):
        return naive.linear(rows, p[f"{name}.{part}.weight"], p.get(f"{name}.{part}.bias"))

    def of_expert(part, e, row):
        whole = f"{name}.experts.{part}_proj"
        bias = p.get(f"{whole}.bias")
        return naive.linear(row, p[f"{whole}.weight"][e], None if bias is None else bias[e])

    y, every_p, every_choice = np.zeros(x.shape), [], []
    for at in np.ndindex(x.shape[:2]):
        z = project("gate", x[at])
        p_all = np.exp(z) / np.exp(z).sum() if spec.router.scores == "softmax" else sigmoid(z)
        values = p_all + p.get(f"{name}.{CORRECTION}", 0.0)
        groups = values.reshape(spec.router.num_groups, -1)
        two = 2 if spec.router.group_score == "best two" else 1
        worth = np.sort(groups, axis=1)[:, -two:].sum(1)
        kept = sorted(np.argsort(-worth)[: spec.router.kept_groups])
        size = groups.shape[1]
        candidates = [g * size + i for g in kept for i in range(size)]
        chosen = sorted(candidates, key=lambda e: -values[e])[: spec.num_experts_per_tok]
        total = p_all[chosen].sum() if spec.router.is_normalised else 1.0
        for e in chosen:
            gate, up = of_expert("gate", e, x[at]), of_expert("up", e, x[at])
            if spec.clamp is None:
                hidden = gate * sigmoid(gate) * up
            else:
                gate = np.minimum(gate, spec.clamp.limit)
                up = np.clip(up, -spec.clamp.limit, spec.clamp.limit)
                hidden = (up + 1) * gate * sigmoid(spec.clamp.alpha * gate)
            y[at] += spec.router.factor * p_all[e] / total * of_expert("down", e, hidden)
        if spec.shared is not None:
            gate, up = (project(f"shared_experts.{part}_proj", x[at]) for part in ("gate", "up"))
            shared = project("shared_experts.down_proj", gate * sigmoid(gate) * up)
            s = sigmoid(project("shared_expert_gate", x[at])) if spec.is_shared_gated else 1.0
            y[at] += s * shared
        every_p.append(p_all)
        every_choice.append(chosen)
    return y, np.array(every_p), np.array(every_choice)


@pytest.mark.nightly_on("jax")
@pytest.mark.parametrize("name", SPECS)
def test_equals_a_loop_over_tokens(backend, name):
    rt, config, spec = make_runtime(backend, "fp64"), routed(SPECS[name]), SPECS[name]
    params = make_params(rt, config)
    host = {key: np.asarray(backend.to_host(array)) for key, array in params.items()}
    x = np.random.default_rng(3).standard_normal((B, T, config.hidden_size))
    expected, _, choices = naive_experts(spec, host, NAME, x)
    assert len(np.unique(choices)) > 2, "more than one expert's rows"
    context = make_context(rt, config, T)
    y, _ = pure(
        backend,
        lambda x: experts_fwd(rt, spec, params, NAME, x, context),
        Place(backend, "float64").array(x),
    )
    # sums of 16 and 6 terms of order 1, three layers deep
    assert_close(backend, y, expected, dtype="float64", bound=1e-12)


def run_pass(rt, config, params, **options):
    ids, targets = draw_ids(1, B, T), draw_ids(2, B, T)
    return loss_and_grads(rt, config, params, ids, targets, n_targets=B * T, **options)


@pytest.mark.parametrize("spec", [*SPECS.values(), BALANCED], ids=[*SPECS, "balanced"])
@pytest.mark.parametrize("kernels", ["fused", pytest.param("portable", marks=pytest.mark.nightly)])
def test_gradients(numpy_backend, spec, kernels):
    rt, config = make_runtime(numpy_backend, "fp64", kernels), routed(spec)
    params = make_params(rt, config, seed=1)  # no number within a step of a clamp's limit
    _, grads = run_pass(rt, config, params)
    routed_params = {k: array for k, array in params.items() if ".layers.0.mlp." in k}
    assert grads.keys() == params.keys()

    def total():
        return float(run_pass(rt, config, params)[0])

    for error in check_gradients(total, routed_params, grads, entries=3):
        assert error.error <= MODEL_LIMIT, error


def test_one_expert_and_weights_divided_by_their_sum_leave_the_router_without_a_gradient(
    numpy_backend,
):
    rt, config = make_runtime(numpy_backend, "fp64"), routed(SPECS["one of four"])
    _, grads = run_pass(rt, config, make_params(rt, config))
    assert not grads["model.layers.0.mlp.gate.weight"].any()
    balanced = replace(SPECS["one of four"], router=replace(BY_SUM, balance=0.3))
    _, grads = run_pass(rt, routed(balanced), make_params(rt, config))
    assert grads["model.layers.0.mlp.gate.weight"].any()


def test_a_correction_has_a_gradient_of_zero(numpy_backend):
    rt, config = make_runtime(numpy_backend, "fp64"), routed(SPECS["deepseek_v3"])
    _, grads = run_pass(rt, config, make_params(rt, config))
    assert not grads[f"model.layers.0.mlp.{CORRECTION}"].any()


@pytest.mark.parametrize("recompute", [False, True])
def test_the_load_balancing_loss_is_that_of_all_layers_together(numpy_backend, recompute):
    rt, config = make_runtime(numpy_backend, "fp64"), routed(BALANCED)
    params = make_params(rt, config)
    inputs = {}

    def watched(x, weight, bias=None):
        for layer in range(2):
            if weight is params[f"model.layers.{layer}.mlp.gate.weight"]:
                inputs[layer] = x.reshape(B, T, -1)
        return rt.kernels["linear_fwd"](x, weight, bias)

    watching = replace(rt, kernels={**rt.kernels, "linear_fwd": watched})
    share = 0.25
    loss, grads = run_pass(watching, config, params, share=share, recompute=recompute)
    plain, _ = run_pass(rt, routed(SPECS["mixtral"]), params)

    # transformers' load_balancing_loss_func: shares of choices and mean scores, over tokens of all layers
    found = [naive_experts(BALANCED, params, f"model.layers.{i}.mlp", inputs[i]) for i in range(2)]
    scores, choices = (np.concatenate([part[i] for part in found]) for i in (1, 2))
    load = np.bincount(choices.ravel(), minlength=4) / len(choices)
    expected = 0.3 * 4 * (load * scores.mean(0)).sum()
    assert float(loss) - float(plain) == pytest.approx(share * expected, rel=1e-12)

    _, scaled = run_pass(rt, config, params, share=share, recompute=recompute, loss_scale=8.0)
    name = "model.layers.0.mlp.gate.weight"
    np.testing.assert_allclose(scaled[name], 8.0 * grads[name], rtol=1e-10)


@pytest.mark.parametrize("policy", ["bf16", "fp16"])
def test_narrow_activations_choose_as_wide_ones(numpy_backend, policy):
    """The router runs in the softmax island, from x as it is stored."""
    rt, spec = make_runtime(numpy_backend, policy), SPECS["mixtral"]
    config = routed(spec)
    params = make_params(rt, config)
    host = {key: np.asarray(array, np.float64) for key, array in params.items()}
    x = np.random.default_rng(5).standard_normal((B, T, 16)).astype(rt.dtype.compute)
    y, saved = experts_fwd(rt, spec, params, NAME, x, make_context(rt, config, T))
    _, _, choices = naive_experts(spec, host, NAME, x.astype(np.float64))
    np.testing.assert_array_equal(saved.routing.router.chosen, choices)
    assert saved.routing.router.p.dtype == np.float32
    assert y.dtype == rt.dtype.compute

"""Every optimizer that torch has, against torch's, over ten steps on the quadratics of tests/train/quadratic.py."""

import numpy as np
import pytest

from tests.train.quadratic import LR, SPECS, STEPS, rate, run_steps, slopes, start

HIDDEN = [name for name, spec in SPECS.items() if spec.is_hidden_matrix]
REST = [name for name in SPECS if name not in HIDDEN]

CASES = [
    ("sgd", {}, "SGD", {}),
    ("sgd", {"momentum": 0.9}, "SGD", {"momentum": 0.9}),
    (
        "sgd",
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
        "SGD",
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    ),
    ("adam", {}, "Adam", {}),
    (
        "adam",
        {"beta1": 0.8, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1},
        "Adam",
        {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1},
    ),
    ("adamw", {}, "AdamW", {}),
    (
        "adamw",
        {"beta2": 0.99, "weight_decay": 0.5},
        "AdamW",
        {"betas": (0.9, 0.99), "weight_decay": 0.5},
    ),
    ("adafactor", {}, "Adafactor", {"weight_decay": 0.0}),
    (
        "adafactor",
        {"decay_rate": -0.5, "eps2": 0.9, "clip_threshold": 1.2, "weight_decay": 0.3},
        "Adafactor",
        {"beta2_decay": -0.5, "eps": (None, 0.9), "d": 1.2, "weight_decay": 0.3},
    ),
]

BOUNDS = {"float32": 1e-6, "float64": 1e-13}
"""Ten steps of a dozen roundings each on weights of size 1, mostly on numbers of size lr = 0.02."""


def torch_steps(torch, dtype, groups):
    """Weights after STEPS steps of torch.

    Args:
        torch: the library.
        dtype: "float32" or "float64".
        groups: (class name, options, learning rate, parameter names) of each optimizer.
    """
    params = {name: torch.tensor(host) for name, host in start(dtype).items()}
    problem = {name: [torch.tensor(host) for host in slopes(name, dtype)] for name in SPECS}
    optimizers = []
    for kind, options, lr, names in groups:
        decayed = [params[name] for name in names if SPECS[name].decays]
        whole = [params[name] for name in names if not SPECS[name].decays]
        rows = [{"params": decayed}] if decayed else []
        rows += [{"params": whole, "weight_decay": 0.0}] if whole else []
        optimizers.append((getattr(torch.optim, kind)(rows, lr=lr, **options), lr))

    for step in range(STEPS):
        for name, (h, z) in problem.items():
            params[name].grad = h * params[name] + z[step]
        for optimizer, lr in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(step, lr)
            optimizer.step()
    return {name: param.numpy() for name, param in params.items()}


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(("name", "options", "kind", "torch_options"), CASES)
def test_ten_steps_equal_torchs(torch, name, options, kind, torch_options, dtype):
    expected = torch_steps(torch, dtype, [(kind, torch_options, LR, list(SPECS))])
    params = run_steps(name, options, dtype=dtype)
    for key, array in expected.items():
        np.testing.assert_allclose(params[key], array, rtol=0, atol=BOUNDS[dtype])


MUON_CASES = [
    ({"weight_decay": 0.0}, {"weight_decay": 0.0}),
    ({"adjust_lr": "original"}, {"adjust_lr_fn": "original"}),
    ({"nesterov": False, "momentum": 0.5}, {"nesterov": False, "momentum": 0.5}),
]


def muon_of_torch(torch, dtype, options):
    options = {"weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"} | options
    adamw = {"betas": (0.9, 0.95), "weight_decay": options["weight_decay"]}
    return torch_steps(
        torch, dtype, [("Muon", options, LR, HIDDEN), ("AdamW", adamw, LR / 2, REST)]
    )


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(("options", "torch_options"), MUON_CASES)
def test_ten_steps_equal_torchs_muon(torch, monkeypatch, options, torch_options, dtype):
    # Torch's iteration, its rounding to bfloat16 left out.
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    expected = muon_of_torch(torch, dtype, torch_options)
    params = run_steps("muon", {"adamw_lr_ratio": 0.5, **options}, dtype=dtype)
    for key, array in expected.items():
        np.testing.assert_allclose(params[key], array, rtol=0, atol=BOUNDS[dtype])


def test_torchs_muon_in_bfloat16_is_muon_within_bfloat16(torch):
    expected = muon_of_torch(torch, "float32", {})
    params = run_steps("muon", {"adamw_lr_ratio": 0.5})
    for key in HIDDEN:
        # Five rounds of three bfloat16 products, each of them off by 2^-8 of a step that is 0.2 lr a number, ten times;
        # the slope of the polynomial at 0 is 3.4, so what a round is off by grows in the next.
        bound = 3.4 * 5 * 3 * 2.0**-8 * 0.2 * sum(map(rate, range(STEPS)))
        difference = np.max(np.abs(params[key] - expected[key]))
        assert 0 < difference < bound
        assert bound < 0.5 * np.max(np.abs(expected[key] - start()[key]))

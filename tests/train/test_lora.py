"""Low-rank adapters: their gradients, what they leave alone, and the files that PEFT reads and writes."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import xplm
from tests.generate.tiny import tiny_model
from tests.tiny import draw_ids, make_config, make_params
from tests.train.runs import assert_bitwise_equal, host_weights, run_to, start, tiny_recipe
from xplm.backend import load_backend
from xplm.checkpoint.adapter import adapter_product, merge_adapter, read_adapter, write_adapter
from xplm.checkpoint.convert import convert
from xplm.checkpoint.save import save_directory
from xplm.errors import CheckpointError, RequestError
from xplm.models.decoder import forward, param_specs
from xplm.models.training import loss_and_grads
from xplm.numerics.gradient_check import check_gradients
from xplm.numerics.tiny_models import ROUTED
from xplm.params import count_params, init_params
from xplm.runtime import make_runtime
from xplm.train.lora import adapter_specs

GPT2 = {"model_type": "gpt2", "n_inner": 24}
STARCODER = {"model_type": "starcoder2", "use_bias": True, "norm_epsilon": 1e-5}
QWEN3 = {"model_type": "qwen3", "head_dim": 6, "attention_bias": True}
PHI = {"model_type": "phi", "hidden_size": 32, "qk_layernorm": True}
MIXTRAL = {"model_type": "mixtral", "num_local_experts": 4}
QWEN2_MOE = ROUTED | {
    "model_type": "qwen2_moe",
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8,
}
GPT_OSS = {"model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2}
FAMILIES = {
    "mixtral": MIXTRAL,
    "qwen2_moe": QWEN2_MOE,
    "gpt_oss": GPT_OSS,
    "granitemoe": {"model_type": "granitemoe", "num_local_experts": 4},
    "llama": {},
    "gpt2": GPT2 | {"n_inner": 48, "max_position_embeddings": 64},
    "qwen3": QWEN3,
    "phi": PHI,
}
"""Changes to a tiny model."""


def random_adapter(config, rank=3, seed=0):
    """A trained adapter: neither A nor B is zero."""
    rng = np.random.default_rng(seed)
    specs = adapter_specs(param_specs(config), rank)
    return {name: rng.normal(0, 0.3, spec.shape).astype(np.float32) for name, spec in specs.items()}


def write_model(path, **changes):
    """A tiny model's directory, and the model."""
    lm = tiny_model(**changes)
    shapes = {name: x.shape for name, x in lm.params.items()}
    save_directory(
        path,
        lm.config,
        shapes,
        lambda name, dtype: lm.params[name].astype(dtype),
        "float32",
        lm.tokenizer.save,
    )
    return path


def fine_tune(tmp_path, base, **settings):
    settings = {"model__arch": "llama", "train__init": str(base), "train__lora": 2} | settings
    return start(tiny_recipe(tmp_path, **settings), tmp_path / "adapter")


@pytest.mark.parametrize(
    "changes",
    [{}, STARCODER, GPT2, QWEN3, PHI, MIXTRAL, QWEN2_MOE, GPT_OSS],
    ids=["llama", "starcoder2", "gpt2", "qwen3", "phi", "mixtral", "qwen2_moe", "gpt_oss"],
)
def test_gradients_are_those_of_central_differences(changes):
    rt = make_runtime(load_backend("numpy"), "fp64")
    config = make_config(**({"num_hidden_layers": 1} | changes))
    adapter = {
        n: x.astype(np.float64) for n, x in random_adapter(config, seed=1).items()
    }  # no tie of experts
    params = make_params(rt, config) | adapter
    ids, targets = draw_ids(1, 2, 5), draw_ids(2, 2, 5)

    def loss():
        return float(loss_and_grads(rt, config, params, ids, targets, n_targets=10)[0])

    _, grads = loss_and_grads(rt, config, params, ids, targets, n_targets=10)
    for error in check_gradients(loss, {n: params[n] for n in adapter}, grads, entries=4):
        assert error.error <= 1e-6, error
    frozen = {name.replace(".lora_A", "") for name in adapter if ".lora_A" in name}
    assert frozen.isdisjoint(grads)


def test_an_adapter_beside_a_weight_is_the_weight_with_its_product_added():
    rt = make_runtime(load_backend("numpy"), "fp32")
    config = make_config()
    params, adapter = make_params(rt, config), random_adapter(config)
    ids = draw_ids(3, 2, 7)
    beside = forward(rt, config, params | adapter, ids)
    merged = forward(rt, config, merge_adapter(rt, params, adapter), ids)
    # float32 products of up to 24 terms in two layers; logits are of order 1.
    np.testing.assert_allclose(beside, merged, rtol=0, atol=1e-4 * np.abs(merged).max())
    assert np.abs(merged - forward(rt, config, params, ids)).max() > 0.1


def test_a_new_adapter_changes_nothing():
    rt = make_runtime(load_backend("numpy"), "fp32")
    config = make_config()
    params = make_params(rt, config)
    adapter = init_params(rt, adapter_specs(param_specs(config), 4), 0)
    ids = draw_ids(3, 2, 7)
    np.testing.assert_array_equal(
        forward(rt, config, params | adapter, ids), forward(rt, config, params, ids)
    )


def test_every_projection_has_an_adapter_of_the_rank():
    config = make_config()
    specs = adapter_specs(param_specs(config), 2)
    layers = {name.rsplit(".", 2)[0] for name in specs}
    assert len(layers) == 7 * config.num_hidden_layers
    shapes = [specs[f"model.layers.0.self_attn.k_proj.lora_{part}.weight"].shape for part in "AB"]
    assert shapes == [(2, 16), (8, 2)]


@pytest.mark.parametrize("rank", [0, 8, 100])
def test_a_rank_that_saves_nothing_is_refused(rank):
    with pytest.raises(RequestError, match="rank must be at least 1 and below 8"):
        adapter_specs(param_specs(make_config()), rank)


def test_training_moves_the_adapter_alone_and_learns(tmp_path):
    base = write_model(tmp_path / "base")
    trainer = fine_tune(tmp_path, base, train__steps=20, data__context=32)
    frozen = {name: x.copy() for name, x in trainer.job.task.frozen.items()}
    run_to(trainer)
    assert_bitwise_equal(dict(trainer.job.task.frozen), frozen)
    assert count_params(trainer.job.task.specs) < 0.3 * sum(x.size for x in frozen.values())

    losses = [
        json.loads(line)["val_loss"]
        for line in (tmp_path / "adapter/metrics.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < losses[0]
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    assert "model.safetensors" not in names


def test_a_resumed_run_ends_in_the_same_adapter(tmp_path):
    base = write_model(tmp_path / "base")
    unbroken = host_weights(run_to(fine_tune(tmp_path, base)))
    (tmp_path / "adapter").rename(tmp_path / "unbroken")
    trainer = run_to(fine_tune(tmp_path, base), 6)
    trainer.save()
    resumed = start(trainer.job.recipe, tmp_path / "adapter", resume=True)
    assert resumed.state.step == 6
    assert_bitwise_equal(host_weights(run_to(resumed)), unbroken)


def test_loaded_with_its_model_and_merged_into_it(tmp_path):
    base = write_model(tmp_path / "base")
    trainer = run_to(fine_tune(tmp_path, base))
    ids = [5, 80, 33, 7]
    lm = xplm.load(base, adapter=tmp_path / "adapter")
    task = trainer.job.task
    trained = forward(task.rt, task.config, task.frozen | trainer.state.masters, np.asarray([ids]))
    np.testing.assert_allclose(lm.logits(ids), trained[0], rtol=0, atol=1e-4)
    assert np.abs(lm.logits(ids) - xplm.load(base).logits(ids)).max() > 1e-3

    convert(base, tmp_path / "merged", "fp32", adapter=tmp_path / "adapter")
    np.testing.assert_array_equal(xplm.load(tmp_path / "merged").logits(ids), lm.logits(ids))


@pytest.mark.parametrize(
    ("changes", "module"),
    [
        ({}, "mlp.up_proj"),
        (STARCODER, "mlp.c_fc"),
        (QWEN3, "self_attn.o_proj"),
        (PHI, "self_attn.dense"),
        (PHI, "mlp.fc2"),
    ],
)
def test_written_and_read_back(tmp_path, changes, module):
    config = make_config(**changes)
    adapter = random_adapter(config)
    write_adapter(tmp_path, config, adapter, base="somewhere")
    assert_bitwise_equal(read_adapter(tmp_path, config), adapter)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert f"base_model.model.model.layers.0.{module}.lora_A.weight" in stored


@pytest.mark.parametrize(
    ("facts", "factor"),
    [({"lora_alpha": 6}, 2.0), ({"lora_alpha": 6, "use_rslora": True}, 6 / 3**0.5)],
)
def test_alpha_is_taken_into_b(tmp_path, facts, factor):
    config = make_config()
    adapter = random_adapter(config)
    write_adapter(tmp_path, config, adapter, base="somewhere")
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    for name, tensor in read_adapter(tmp_path, config).items():
        expected = adapter[name] * np.float32(factor) if ".lora_B" in name else adapter[name]
        np.testing.assert_array_equal(tensor, expected)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"peft_type": "IA3"}, "plain LoRA"),
        ({"use_dora": True}, "plain LoRA.*use_dora"),
        ({"r": None}, "must give r, from 1, and lora_alpha, .*; got None"),
        ({"lora_alpha": float("nan")}, "must give r, .*; got 3 and nan"),
        ({"lora_alpha": True}, "must give r, .*; got 3 and True"),
        ({"target_parameters": ["mlp.gate.weight"]}, "target_parameters must .*mlp.gate.weight"),
        ({"target_parameters": ["experts.down_proj"]}, "target_parameters must .*down_proj"),
        ({"target_parameters": "down_proj"}, "must be names of parameters; .* has 'down_proj'"),
        ({"r": 4}, r"must have shape \(4, 16\)"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(tmp_path, facts, message):
    config = make_config()
    write_adapter(tmp_path, config, random_adapter(config), base="somewhere")
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    with pytest.raises(CheckpointError, match=message):
        read_adapter(tmp_path, config)


def test_an_adapter_of_another_model_is_refused(tmp_path):
    deep, shallow = make_config(num_hidden_layers=3), make_config(num_hidden_layers=2)
    write_adapter(tmp_path, deep, random_adapter(deep), base="somewhere")
    with pytest.raises(CheckpointError, match="give the model that it was trained on"):
        read_adapter(tmp_path, shallow)
    save_file({}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="no tensor at all"):
        read_adapter(tmp_path, deep)


def test_the_adapters_of_gpt2s_q_k_and_v_are_stored_as_one(tmp_path):
    config = make_config(**GPT2)
    adapter = random_adapter(config)
    write_adapter(tmp_path, config, adapter, base="somewhere")
    stored = load_file(tmp_path / "adapter_model.safetensors")
    module = "base_model.model.transformer.h.0.attn.c_attn"
    shapes = [stored[f"{module}.lora_{half}.weight"].shape for half in "AB"]
    assert shapes == [(9, 16), (48, 9)]
    facts = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (facts["r"], facts["rank_pattern"], facts["alpha_pattern"]) == (
        3,
        {"c_attn": 9},
        {"c_attn": 9},
    )

    back = read_adapter(tmp_path, config)
    for layer in {name.rsplit(".", 2)[0] for name in adapter}:
        expected = adapter_product(adapter, layer)
        # Two thirds of the 9 terms are zeros.
        np.testing.assert_allclose(adapter_product(back, layer), expected, rtol=0, atol=1e-6)


def test_an_adapter_of_what_is_no_matrix_is_refused(tmp_path):
    config = make_config()
    write_adapter(tmp_path, config, random_adapter(config), base="somewhere")
    weights = tmp_path / "adapter_model.safetensors"
    norm = "base_model.model.model.norm"
    halves = {
        f"{norm}.lora_A.weight": np.ones((3, 16), np.float32),
        f"{norm}.lora_B.weight": np.ones((16, 3), np.float32),
    }
    save_file(load_file(weights) | halves, weights)
    with pytest.raises(CheckpointError, match=r"holds base_model.model.model.norm.lora_A"):
        read_adapter(tmp_path, config)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of PEFT's code
@pytest.mark.filterwarnings(  # PEFT looks among modules alone, and uses the rank of a parameter
    "ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning"
)
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_reads_an_adapter(tmp_path, family):
    torch = pytest.importorskip("torch", reason="PEFT needs torch")
    peft = pytest.importorskip("peft", reason="the oracle for adapters is PEFT")
    transformers = pytest.importorskip("transformers", reason="PEFT needs transformers")
    base = write_model(tmp_path / "base", **FAMILIES[family])
    run_to(fine_tune(tmp_path, base))
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    ids = [5, 80, 33, 7]
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    actual = xplm.load(base, adapter=tmp_path / "adapter").logits(ids)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of PEFT's code
@pytest.mark.parametrize(
    ("family", "modules", "pattern"),
    [
        ("llama", ["q_proj", "down_proj"], {}),
        ("llama", ["q_proj", "down_proj"], {"self_attn.q_proj": 2}),
        ("gpt2", ["c_attn", "c_proj"], {"h.1.attn.c_attn": 4}),
        ("qwen3", ["k_proj", "o_proj", "gate_proj"], {}),
        ("phi", ["q_proj", "dense", "fc1", "fc2"], {"layers.1.mlp.fc1": 2}),
    ],
)
def test_an_adapter_of_pefts_own_is_read(tmp_path, family, modules, pattern):
    torch = pytest.importorskip("torch", reason="PEFT needs torch")
    peft = pytest.importorskip("peft", reason="the oracle for adapters is PEFT")
    transformers = pytest.importorskip("transformers", reason="PEFT needs transformers")
    base = write_model(tmp_path / "base", **FAMILIES[family])
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    options = peft.LoraConfig(
        r=3,
        lora_alpha=7,
        target_modules=modules,
        rank_pattern=pattern,
        fan_in_fan_out=family == "gpt2",
    )
    model = peft.get_peft_model(model, options).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
        expected = model(torch.tensor([[5, 80, 33]])).logits[0].numpy()
    model.save_pretrained(tmp_path / "theirs")
    actual = xplm.load(base, adapter=tmp_path / "theirs").logits([5, 80, 33])
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


def test_an_adapter_in_a_pickle_file_is_refused(tmp_path):
    facts = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    (tmp_path / "adapter_config.json").write_text(json.dumps(facts))
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin, which can run code"):
        read_adapter(tmp_path, make_config())

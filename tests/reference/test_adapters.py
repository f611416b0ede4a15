"""Adapters that PEFT makes, against PEFT."""

import warnings
from dataclasses import fields

import numpy as np
import pytest

import xplm
from tests.checkpoint.test_adapter_config import PATTERNS, Q
from tests.generate.tiny import tiny_model
from xplm.checkpoint.adapter_config import INERT, KINDS, READ
from xplm.checkpoint.convert import convert
from xplm.checkpoint.save import save_directory
from xplm.errors import CheckpointError
from xplm.numerics.tiny_models import LATENT, ROUTED

IDS = [5, 80, 33, 7, 120]
BOUND = 1e-4
EXPERTS = ROUTED | {"moe_intermediate_size": 8}  # torch's grouped products take rows of 16 bytes
MODELS = {
    "llama": {},
    "tied": {"tie_word_embeddings": True},
    "gpt2": {"model_type": "gpt2", "n_inner": 48},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 8},
    "phi": {"model_type": "phi"},
    "gpt_neox": {"model_type": "gpt_neox"},
    "deepseek_v3": LATENT | {"model_type": "deepseek_v3", "first_k_dense_replace": 9},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4},
    "qwen3_moe": EXPERTS | {"model_type": "qwen3_moe", "head_dim": 8, "mlp_only_layers": [0]},
    "qwen2_moe": EXPERTS | {"model_type": "qwen2_moe", "shared_expert_intermediate_size": 8},
    "granitemoe": {"model_type": "granitemoe", "num_local_experts": 4},
    "gpt_oss": {"model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2},
}
"""Changes to a tiny model."""

TARGETS = {"target_modules": ["q_proj", "v_proj"]}
GATE_UP, DOWN = "experts.gate_up_proj", "experts.down_proj"
STACKED = {"target_parameters": [GATE_UP, DOWN]}
PLAIN = {
    "plain": ("llama", {}),
    "gaussian": ("llama", {"init_lora_weights": "gaussian"}),
    "orthogonal": ("llama", {"init_lora_weights": "orthogonal"}),
    "mica": ("llama", {"init_lora_weights": "mica"}),
    "rslora": ("llama", {"use_rslora": True, "rank_pattern": {"v_proj": 2}}),
    "alpha_pattern": ("llama", {"alpha_pattern": {r".*\.1\..*(q|k)_proj": 3, "v_proj": 5}}),
    "rank_pattern": ("llama", {"rank_pattern": {"^model.layers.0.self_attn.q_proj": 2}}),
    "velora": ("llama", {"velora_config": {"num_groups": 4, "init_type": "random"}}),
    "one layer": ("llama", {"layers_to_transform": [1]}),
    "expression": ("llama", {"target_modules": r".*\.(q|o|up)_proj"}),
    "all-linear": ("llama", {"target_modules": "all-linear"}),
    "no biases to train": ("llama", {"bias": "all"}),
    "lm_head": ("llama", {"target_modules": ["q_proj", "lm_head"]}),
    "lm_head, alpha": (
        "llama",
        {
            "target_modules": ["lm_head"],
            "alpha_pattern": {"lm_.*": 3},
            "rank_pattern": {"lm_head": 2},
        },
    ),
    "lm_head, tied": ("tied", {"target_modules": ["q_proj", "lm_head"]}),
    "embedding": ("llama", {"target_modules": ["q_proj", "embed_tokens"]}),
    "embedding, tied": ("tied", {"target_modules": ["q_proj", "embed_tokens"]}),
    "embedding and lm_head": ("llama", {"target_modules": ["embed_tokens", "lm_head"]}),
    "gpt2": ("gpt2", {"target_modules": ["c_attn", "lm_head"], "fan_in_fan_out": True}),
    "gpt_neox": ("gpt_neox", {"target_modules": ["query_key_value", "lm_head"]}),
    "qwen3": ("qwen3", {"target_modules": "all-linear"}),
    "phi": ("phi", {"target_modules": ["q_proj", "dense", "fc1", "fc2"]}),
    "deepseek_v3": (
        "deepseek_v3",
        {"target_modules": r".*\.((q|kv)_[ab]_proj|kv_a_proj_with_mqa|o_proj)"},
    ),
    "mixtral": ("mixtral", STACKED | {"use_rslora": True}),
    "mixtral, gate and up": ("mixtral", {"target_parameters": [GATE_UP]}),
    "mixtral, down alone": ("mixtral", {"target_parameters": [DOWN], "target_modules": []}),
    "mixtral, names of transformers 4": (
        "mixtral",
        {"target_modules": ["q_proj", "w1", "w2", "w3"]},
    ),
    "qwen3_moe": (
        "qwen3_moe",
        STACKED | {"rank_pattern": {GATE_UP: 2}, "alpha_pattern": {"down_proj": 3}},
    ),
    "qwen2_moe, shared and routed": (
        "qwen2_moe",
        {"target_parameters": ["shared_expert.up_proj.weight", "1.mlp.experts.gate_up_proj"]},
    ),
    "granitemoe": ("granitemoe", STACKED),
    "gpt_oss": ("gpt_oss", STACKED),
    "phi, all and lm_head": ("phi", {"target_modules": r".*\.(v_proj|dense|fc\d)|lm_head"}),
}
OTHERS = {
    "PiSSA": ("llama", {"init_lora_weights": "pissa"}),
    "PiSSA.*niter": ("llama", {"init_lora_weights": "pissa_niter_2"}),
    "OLoRA": ("llama", {"init_lora_weights": "olora"}),
    "DoRA": ("llama", {"use_dora": True}),
    "aLoRA": ("llama", {"alora_invocation_tokens": [7]}),
    "a bias": ("llama", {"lora_bias": True}),
    "trainable tokens": ("llama", {"trainable_token_indices": [3]}),
    "trained whole": ("llama", {"modules_to_save": ["lm_head"]}),
    "biases that were trained": ("qwen2", {"bias": "lora_only"}),
}


@pytest.fixture(scope="session")
def peft(transformers):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of others' code
        return pytest.importorskip("peft", reason="the oracle for adapters is PEFT")


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """The directories of the models."""
    directory = tmp_path_factory.mktemp("bases")
    for name, changes in MODELS.items():
        lm = tiny_model(**changes)
        shapes = {key: x.shape for key, x in lm.params.items()}
        save_directory(
            directory / name,
            lm.config,
            shapes,
            lambda key, dtype, params=lm.params: params[key].astype(dtype),
            "float32",
            lm.tokenizer.save,
        )
    return directory


@pytest.fixture
def make_adapter(torch, transformers, peft, tmp_path):
    """make_adapter(base, **options): a trained adapter's directory, and PEFT's logits with it."""

    def load(base):
        return transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)

    def make(base, **options):
        given = {"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8} | TARGETS | options
        torch.manual_seed(0)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of others' code
            model = peft.get_peft_model(load(base), peft.LoraConfig(**given))
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
            model.save_pretrained(tmp_path / "adapter")
            model = peft.PeftModel.from_pretrained(load(base), tmp_path / "adapter").eval()
            return tmp_path / "adapter", model(torch.tensor([IDS])).logits[0].numpy()

    return make


@pytest.mark.parametrize("name", PLAIN)
def test_plain_adapters_give_pefts_logits(bases, make_adapter, tmp_path, name):
    base, options = PLAIN[name]
    adapter, expected = make_adapter(bases / base, **options)
    lm = xplm.load(bases / base, adapter=adapter)
    assert np.abs(lm.logits(IDS) - expected).max() <= BOUND
    assert np.abs(xplm.load(bases / base).logits(IDS) - expected).max() > 100 * BOUND

    convert(bases / base, tmp_path / "merged", "fp32", adapter=adapter)
    merged = xplm.load(tmp_path / "merged")
    assert merged.config.tie_word_embeddings == lm.config.tie_word_embeddings
    np.testing.assert_array_equal(merged.logits(IDS), lm.logits(IDS))


@pytest.mark.parametrize("kind", OTHERS)
def test_other_adapters_say_what_they_are(bases, make_adapter, kind):
    base, options = OTHERS[kind]
    adapter, _ = make_adapter(bases / base, **options)
    with pytest.raises(CheckpointError, match=f"plain LoRA; .*{kind}.*merge it with PEFT first"):
        xplm.load(bases / base, adapter=adapter)


def test_patterns_match_as_pefts(peft):
    find = pytest.importorskip("peft.utils.other").get_pattern_key
    for pattern, rank in PATTERNS:
        assert pattern.get(find(pattern, Q), 4) == rank, pattern


def test_every_field_of_peft_is_known(peft):
    known = {*READ, *INERT, *KINDS}
    assert {field.name for field in fields(peft.LoraConfig)} <= known
    assert set(peft.LoraConfig().to_dict()) <= known

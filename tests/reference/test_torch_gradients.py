"""Hand-written gradients against torch's autograd, on transformers' models with equal weights, in float32.

Both sum the same products in different orders: sums of up to 200 terms, a few deep, are apart by 200 * 2^-24 = 1e-5 at
the very most of the largest number in a gradient, and in practice by a tenth of it.
"""

import warnings

import numpy as np
import pytest

from xplm.backend import load_backend
from xplm.checkpoint.layouts import pack
from xplm.models.decoder import param_specs
from xplm.models.families.config_json import read_config, write_config
from xplm.models.head import IGNORE_INDEX
from xplm.models.training import loss_and_grads
from xplm.numerics.gradient_check import relative_errors
from xplm.numerics.tiny_models import draw_params
from xplm.runtime import make_runtime
from xplm.specs import ExpertsSpec
from xplm.train.clip import clip_by_global_norm
from xplm.train.optimizers import find_optimizer

BOUND = 1e-5
LR, MAX_NORM = 2e-3, 1.0

BASE = {
    "model_type": "llama",
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LATENT = {
    "num_key_value_heads": None,
    "q_lora_rank": 20,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "first_k_dense_replace": 1,
    "n_routed_experts": 6,
    "n_group": 3,
    "topk_group": 2,
}
ROUTED = {"num_experts_per_tok": 2, "moe_intermediate_size": 20, "eos_token_id": 2}
MODELS = {
    "llama": {},
    "llama, tied": {"tie_word_embeddings": True},
    "llama, biases, head_dim": {"attention_bias": True, "mlp_bias": True, "head_dim": 12},
    "llama, one key head": {"num_key_value_heads": 1},
    "llama, llama3 rope": {"rope_scaling": LLAMA3},
    "llama, yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    "mistral, window": {"model_type": "mistral", "sliding_window": 5},
    "qwen2": {"model_type": "qwen2"},
    "qwen3, window": {
        "model_type": "qwen3",
        "head_dim": 10,
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
    },
    "qwen3, biases": {"model_type": "qwen3", "head_dim": 8, "attention_bias": True},
    "phi": {"model_type": "phi"},
    "phi, norms of q and k, K < H": {
        "model_type": "phi",
        "num_key_value_heads": 2,
        "qk_layernorm": True,
        "partial_rotary_factor": 0.75,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    },
    "starcoder2": {"model_type": "starcoder2", "use_bias": True},
    "arcee": {"model_type": "arcee"},
    "opt": {"model_type": "opt", "ffn_dim": 72},
    "gpt_neox": {"model_type": "gpt_neox"},
    "falcon": {"model_type": "falcon"},
    "falcon, new": {"model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 2},
    "stablelm": {"model_type": "stablelm", "qk_layernorm": True},
    "smollm3": {
        "model_type": "smollm3",
        "no_rope_layers": [0, 1],
        "use_sliding_window": True,
        "sliding_window": 5,
        "pad_token_id": None,
    },
    "glm4": {"model_type": "glm4", "head_dim": 8, "pad_token_id": None},
    "olmo2": {"model_type": "olmo2"},
    "olmo3": {
        "model_type": "olmo3",
        "sliding_window": 5,
        "layer_types": ["full_attention", "sliding_attention"],
        "rope_parameters": None,
    },
    "gemma2": {
        "model_type": "gemma2",
        "head_dim": 10,
        "sliding_window": 5,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 2.0,
        "tie_word_embeddings": True,
    },
    "gemma3_text": {
        "model_type": "gemma3_text",
        "head_dim": 10,
        "sliding_window": 5,
        "layer_types": ["full_attention", "sliding_attention"],
        "query_pre_attn_scalar": 8,
        "rope_parameters": None,
        "tie_word_embeddings": True,
    },
    "exaone4": {"model_type": "exaone4", "sliding_window": 5, "sliding_window_pattern": 2},
    "cohere2": {
        "model_type": "cohere2",
        "sliding_window": 5,
        "sliding_window_pattern": 2,
        "pad_token_id": None,
    },
    "phi3": {
        "model_type": "phi3",
        "rope_scaling": {
            "rope_type": "longrope",
            "short_factor": [1.0, 1.0, 2.0],
            "long_factor": [1.0, 2.0, 9.0],
        },
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 16,
        "pad_token_id": None,
    },
    "seed_oss": {"model_type": "seed_oss", "head_dim": 10, "pad_token_id": None},
    "ernie4_5": {"model_type": "ernie4_5", "head_dim": 10, "pad_token_id": None},
    "granite": {
        "model_type": "granite",
        "attention_multiplier": 0.2,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.6,
        "logits_scaling": 2.5,
    },
    "gemma": {"model_type": "gemma", "head_dim": 10, "tie_word_embeddings": True},
    "deepseek_v2": ROUTED
    | LATENT
    | {
        "model_type": "deepseek_v2",
        "q_lora_rank": None,
        "topk_method": "group_limited_greedy",
    },
    "deepseek_v3": ROUTED
    | LATENT
    | {
        "model_type": "deepseek_v3",
        "attention_bias": True,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 0.7},
    },
    "mixtral": ROUTED | {"model_type": "mixtral", "num_local_experts": 4},
    "mixtral, balanced": ROUTED
    | {"model_type": "mixtral", "num_local_experts": 4}
    | {"output_router_logits": True, "router_aux_loss_coef": 0.5},
    "qwen3_moe": ROUTED
    | {"model_type": "qwen3_moe", "num_experts": 6, "mlp_only_layers": [0], "head_dim": 8},
    "qwen2_moe": ROUTED
    | {"model_type": "qwen2_moe", "num_experts": 6, "shared_expert_intermediate_size": 20},
    "glm4_moe": ROUTED
    | {"model_type": "glm4_moe", "n_routed_experts": 6, "n_group": 3, "topk_group": 2}
    | {"routed_scaling_factor": 2.5, "pad_token_id": None},
    "olmoe": ROUTED
    | {"model_type": "olmoe", "num_experts": 4, "clip_qkv": 1.5, "pad_token_id": None},
    "granitemoe": {
        "model_type": "granitemoe",
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "logits_scaling": 2.0,
    },
    "gpt_oss": ROUTED
    | {"model_type": "gpt_oss", "num_local_experts": 4, "head_dim": 8, "swiglu_limit": 2.0},
    "cohere": {"model_type": "cohere", "use_qk_norm": True, "pad_token_id": None},
    "nemotron": {"model_type": "nemotron", "mlp_bias": True},
    "gpt2, scores scaled by layer": {
        "model_type": "gpt2",
        "n_inner": 72,
        "scale_attn_weights": False,
        "scale_attn_by_inverse_layer_idx": True,
        "tie_word_embeddings": True,
    },
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 48,
        "n_inner": 72,
        "n_layer": 2,
        "n_head": 6,
        "n_positions": 64,
        "tie_word_embeddings": True,
    },
}

OTHER_NAMES = {
    "qwen2_moe": {"shared_experts": "shared_expert"},
    "granitemoe": {".mlp.gate.": ".mlp.router.", ".mlp.": ".block_sparse_moe."},
}
"""By model_type, our parts of names and those of transformers' model."""


RENAMED = {"embed_out.weight": "lm_head.weight"}
"""Names in files -> transformers' names of the same, where they differ."""


class Pair:
    """One model here and in transformers, with equal weights, and a batch with targets that are not scored."""

    def __init__(self, torch, transformers, changes):
        self.torch = torch
        self.config = read_config(BASE | changes)
        self.specs = param_specs(self.config)
        self.rt = make_runtime(load_backend("numpy"), "fp32")
        self.params = {
            name: array.astype(np.float32)
            for name, array in draw_params(self.specs, seed=3).items()
        }
        hf = write_config(self.config) | {"attn_implementation": "eager"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of others' code
            kind = getattr(transformers, hf["architectures"][0])
            # In evaluation mode nothing is dropped; gradients are the same.
            self.oracle = kind(transformers.AutoConfig.for_model(**hf)).float().eval()
        weights = {name: torch.tensor(array) for name, array in self.in_theirs(self.params).items()}
        missing, unexpected = self.oracle.load_state_dict(weights, strict=False)
        assert not unexpected
        assert set(missing) <= {"lm_head.weight"}

        rng = np.random.default_rng(4)
        self.ids = rng.integers(0, 101, (3, 17))
        self.targets = rng.integers(0, 101, (3, 17))
        self.targets[0, :5] = self.targets[2, 9] = IGNORE_INDEX

    def as_stored(self, arrays):
        """Arrays by our names under transformers' names, in its layout."""
        shapes = {name: array.shape for name, array in arrays.items()}
        names, read = pack(self.config, shapes, lambda name, _: arrays[name])
        return {RENAMED.get(name, name): read(name, np.dtype(np.float32)) for name in names}

    def in_theirs(self, arrays):
        """Arrays by our names as transformers' model has them: gate and up of all experts are one."""
        block = self.config.blocks[-1]
        if not isinstance(block.mlp, ExpertsSpec) or self.config.model_type == "gpt_oss":
            return self.as_stored(arrays)
        found = {}
        for name, array in arrays.items():
            stem = name.removesuffix("_proj.weight")
            if stem.endswith("experts.gate") and array.ndim == 3:
                up = arrays[name.replace("gate_proj", "up_proj")]
                found[f"{stem}_up_proj"] = np.concatenate([array, up], axis=1)
            elif array.ndim == 3 and stem.endswith("down"):
                found[f"{stem}_proj"] = array
            elif array.ndim < 3:
                found[name] = array
        for ours, theirs in OTHER_NAMES.get(self.config.model_type, {}).items():
            found = {name.replace(ours, theirs): array for name, array in found.items()}
        return found

    def ours(self):
        n_targets = int(np.sum(self.targets != IGNORE_INDEX))
        loss, grads = loss_and_grads(
            self.rt, self.config, self.params, self.ids, self.targets, n_targets=n_targets
        )
        return float(loss), grads

    def theirs(self):
        torch = self.torch
        self.oracle.zero_grad()
        output = self.oracle(torch.tensor(self.ids))
        loss = torch.nn.functional.cross_entropy(
            output.logits.reshape(-1, 101), torch.tensor(self.targets).reshape(-1)
        )
        if getattr(output, "aux_loss", None) is not None:
            loss = loss + self.oracle.router_aux_loss_coef * output.aux_loss
        loss.backward()
        return float(loss.detach()), dict(self.oracle.named_parameters())


def with_keys_biases_in_queries(arrays):
    """Arrays by name, each bias of keys as a part of that of queries, as in a joined tensor.

    Without RoPE the gradient of a key's bias is zero, for softmax does not notice what a row of scores has in common.
    Both sides' is rounding then, and is compared as such.
    """
    joined = dict(arrays)
    for name in [name for name in arrays if name.endswith("k_proj.bias")]:
        query = name.replace("k_proj", "q_proj")
        joined[query] = np.concatenate([joined[query], joined.pop(name)])
    return joined


TRAINED = ("llama, biases, head_dim", "gpt2")


@pytest.fixture(params=MODELS)
def pair(request, torch, transformers):
    return Pair(torch, transformers, MODELS[request.param])


def test_every_gradient_equals_autograds(pair):
    loss, grads = pair.ours()
    expected_loss, parameters = pair.theirs()
    assert abs(loss - expected_loss) <= BOUND

    assert set(grads) == set(pair.specs)
    found = pair.in_theirs(grads)
    for name, buffer in pair.oracle.named_buffers():
        if name in found:  # a router's correction, which is not trained
            assert not found.pop(name).any()
            assert buffer.any()
    assert set(found) == set(parameters)
    expected = {name: p.grad.numpy() for name, p in parameters.items()}
    if not pair.config.ropes:
        found, expected = map(with_keys_biases_in_queries, (found, expected))
    errors = relative_errors(found, expected)
    assert max(errors.values()) <= BOUND, max(errors.items(), key=lambda item: item[1])


@pytest.mark.parametrize(
    "pair",
    [name if name in TRAINED else pytest.param(name, marks=pytest.mark.nightly) for name in MODELS],
    indirect=True,
)
def test_ten_steps_of_adamw_track_torchs_loss(pair):
    optimizer = find_optimizer("adamw")
    options = optimizer.make_options({"weight_decay": 0.1})
    state = optimizer.init(pair.params, pair.specs, options)

    parameters = list(pair.oracle.parameters())
    decays = {
        n: p.ndim > 1 and not n.endswith("bias") and "norm" not in n
        for n, p in pair.oracle.named_parameters()
    }
    groups = [
        {
            "params": [p for n, p in pair.oracle.named_parameters() if decays[n] is kind],
            "weight_decay": 0.1 * kind,
        }
        for kind in (True, False)
    ]
    theirs = pair.torch.optim.AdamW(groups, lr=LR)

    losses = []
    for _ in range(10):
        loss, grads = pair.ours()
        expected, _ = pair.theirs()
        assert abs(loss - expected) <= BOUND
        losses.append(loss)

        grads, _ = clip_by_global_norm(grads, MAX_NORM)
        pair.params, state = optimizer.update(
            pair.params, grads, state, pair.specs, lr=LR, options=options
        )
        pair.torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        theirs.step()
    assert losses[-1] < losses[0] - 0.1, "it learns"

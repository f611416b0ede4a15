"""docs/families.md against transformers' code: each cell is derived again, and each key that it names is tried."""

import json
import re
from functools import cache

import pytest

from tests.families_page import parse, stored_names, table
from tests.kinds import nightly_unless_first
from tests.reference.family_experts import EXPERT_FACTS, LATENT, has_experts
from tests.reference.family_facts import ABSENT, BLOCKS, PROJECTIONS, SCALES
from tests.reference.family_models import TinyFamily, default_config
from tests.reference.family_positions import POSITIONS

TABLES = {
    "Blocks": BLOCKS,
    "Scales and caps": SCALES,
    "Projections": PROJECTIONS,
    "Positions": POSITIONS,
    "Experts": EXPERT_FACTS,
    "Latent attention": LATENT,
}
LAYERS = {"attention scale": 2, "no RoPE": 12, "window": 12, "scaling": 12, "dense layers": 12}
"""Blocks of the tiny models of the columns that differ by layer: twice the longest period, if there is one."""
MODEL_TYPES = list(table("Blocks").rows)
WITH_EXPERTS = list(table("Experts").rows)
NEUTRAL = dict.fromkeys(SCALES, ABSENT) | {"attention scale": "D^-½"}

FLIPPED = {
    "alibi", "attention_bias", "attention_out_bias", "bias", "do_layer_norm_before", "enable_bias",
    "layer_norm_elementwise_affine", "mlp_bias", "new_decoder_architecture", "norm_topk_prob",
    "parallel_attn", "qk_layernorm", "qkv_bias", "rope_interleave", "scale_attn_by_inverse_layer_idx",
    "scale_attn_weights", "tie_word_embeddings", "use_bias", "use_parallel_residual", "use_qk_norm",
    "use_qkv_bias",
}  # fmt: skip
SET = {
    **dict.fromkeys(
        ["rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"], 0.001
    ),
    **dict.fromkeys(["hidden_act", "hidden_activation", "activation"], "relu"),
    "activation_function": "gelu",
    **dict.fromkeys(["partial_rotary_factor", "rotary_pct"], 0.75),
    **dict.fromkeys(["rope_theta", "rotary_emb_base", "rope_local_base_freq"], 77.0),
    **dict.fromkeys(["embedding_multiplier", "attention_multiplier", "residual_multiplier"], 3.0),
    **dict.fromkeys(["num_local_experts", "num_experts", "n_routed_experts"], 16),
    **dict.fromkeys(["q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "v_head_dim"], 10),
    "attn_logit_softcapping": 3.0,
    "clip_qkv": 0.1,
    "decoder_sparse_step": 2,
    "final_logit_softcapping": 2.0,
    "first_k_dense_replace": 2,
    "head_dim": 16,
    "logit_scale": 0.5,
    "logits_scaling": 4.0,
    "max_window_layers": 6,
    "mlp_only_layers": [0],
    "n_group": 4,
    "n_shared_experts": 3,
    "no_rope_layer_interval": 2,
    "num_experts_per_tok": 5,
    "qk_rope_head_dim": 6,
    "query_pre_attn_scalar": 9,
    "routed_scaling_factor": 1.5,
    "shared_expert_intermediate_size": 48,
    "sliding_window": 3,
    "sliding_window_pattern": 2,
    "swiglu_alpha": 1.0,
    "swiglu_limit": 3.0,
    "topk_group": 2,
    "topk_method": "group_limited_greedy",
    "use_sliding_window": True,
}
"""A value of each key that the page names which is no family's default; those of FLIPPED are negated."""

NEEDED = {
    "max_window_layers": {"use_sliding_window": True, "sliding_window": 3},
    "topk_group": {"n_group": 4},
    "use_sliding_window": {"sliding_window": 3, "max_window_layers": 6},
}
"""What else must be set for a key to count."""


@pytest.fixture(scope="module")
def tiny(torch, transformers):
    """tiny(model type, layers, **keys): a tiny model, made once."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the products are tiny

    @cache
    def make(model_type, layers, items):
        return TinyFamily(transformers, torch, model_type, layers, json.loads(items))

    yield lambda model_type, layers, **keys: make(model_type, layers, json.dumps(keys))
    torch.set_num_threads(before)


def layers_for(heading, column):
    most_dense = 3
    return LAYERS.get(column, most_dense + 1 if heading == "Experts" else 1)


def setting(transformers, model_type, column, key, layers):
    """The keys of a configuration in which one key is not as it is by default."""
    if key == "layer_types":
        return {"layer_types": ["full_attention"] * layers}
    if key == "no_rope_layers":
        return {"no_rope_layers": [1, 0] * (layers // 2)}
    if (model_type, column, key) == ("exaone4", "no RoPE", "sliding_window"):
        return {"sliding_window": None, "layer_types": ["full_attention"] * layers}
    default = getattr(default_config(transformers, model_type), key, None)
    value = (not default) if key in FLIPPED else SET[key]
    return {**NEEDED.get(key, {}), key: value}


def of_family(model_type, *values, **options):
    """A parameter of a test; nightly but for the first families."""
    marks = nightly_unless_first(model_type)
    return pytest.param(*values, marks=marks, **options)


@pytest.mark.parametrize("heading", TABLES)
def test_the_columns_are_those_that_are_derived(heading):
    assert table(heading).header == list(TABLES[heading])


@pytest.mark.parametrize(
    ("heading", "model_type"),
    [of_family(row, heading, row) for heading in TABLES for row in table(heading).rows],
)
def test_the_cells_are_what_transformers_does(tiny, heading, model_type):
    shown, derived = {}, {}
    for column, fact in TABLES[heading].items():
        cell = table(heading).cell(model_type, column)
        shown[column] = cell.strip("`") if column == "width" else parse(column, cell).words
        derived[column] = fact(tiny(model_type, layers_for(heading, column)))
    assert shown == derived, model_type


@pytest.mark.parametrize(
    "model_type",
    [of_family(t, t) for t in MODEL_TYPES if t not in table("Scales and caps").rows],
)
def test_a_family_that_is_not_in_the_table_has_no_scale_or_cap(tiny, model_type):
    assert {
        column: fact(tiny(model_type, layers_for("", column))) for column, fact in SCALES.items()
    } == NEUTRAL


@pytest.mark.parametrize("model_type", [of_family(t, t) for t in MODEL_TYPES])
def test_the_families_with_experts_are_in_their_table(tiny, model_type):
    assert has_experts(tiny(model_type, 4)) == (model_type in WITH_EXPERTS)


KEYS_NAMED = [
    of_family(
        model_type, heading, model_type, column, key, words, id=f"{model_type}-{column}-{key}"
    )
    for heading in TABLES
    for model_type, cells in table(heading).rows.items()
    for column, text in zip(table(heading).header, cells, strict=True)
    if column != "width"
    for key, words in parse(column, text).keys.items()
]


@pytest.mark.parametrize(("heading", "model_type", "column", "key", "words"), KEYS_NAMED)
def test_a_key_changes_the_fact_that_it_is_named_for(
    tiny, transformers, heading, model_type, column, key, words
):
    layers = layers_for(heading, column)
    keys = setting(transformers, model_type, column, key, layers)
    changed = TABLES[heading][column](tiny(model_type, layers, **keys))
    if words is None:
        assert changed != parse(column, table(heading).cell(model_type, column)).words
    else:
        assert changed == words


@pytest.mark.parametrize(
    ("heading", "model_type", "column", "key"),
    [
        ("Scales and caps", "gemma3_text", "attention cap", "attn_logit_softcapping"),
        ("Projections", "gpt_oss", "activation", "hidden_act"),
        ("Positions", "gpt_neox", "share", "partial_rotary_factor"),
        ("Positions", "gpt_neox", "theta", "rope_theta"),
        ("Experts", "deepseek_v2", "divided by their sum", "norm_topk_prob"),
    ],
)
def test_a_key_that_the_page_says_is_not_read_changes_nothing(
    tiny, transformers, heading, model_type, column, key
):
    layers, fact = layers_for(heading, column), TABLES[heading][column]
    keys = setting(transformers, model_type, column, key, layers)
    assert fact(tiny(model_type, layers, **keys)) == fact(tiny(model_type, layers))


def test_olmo3s_sliding_layers_keep_their_theta(tiny):
    assert POSITIONS["theta"](tiny("olmo3", 1, rope_theta=77.0)) == "77, sliding 500,000"


STORED = {
    "cohere": {"use_qk_norm": True},
    "deepseek_v2": {"first_k_dense_replace": 1},
    "deepseek_v3": {"first_k_dense_replace": 1},
    "glm4_moe": {"use_qk_norm": True, "first_k_dense_replace": 1},
    "phi": {"qk_layernorm": True},
    "stablelm": {"qk_layernorm": True},
}
"""Keys with which a model has all the tensors that its family knows."""


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_stored_tensors_are_those_that_transformers_writes(tiny, tmp_path, model_type):
    model = tiny(model_type, 2, tie_word_embeddings=False, **STORED.get(model_type, {})).model
    model.save_pretrained(tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    names = set()
    for name in header.keys() - {"__metadata__"}:
        name = re.sub(r"\.(weight|bias)$", "", name)
        name = re.sub(r"\.(layers|h)\.\d+\.", r".\1.N.", name)
        names.add(
            re.sub(r"(experts|norms)\.\d+", lambda m: f"{m[1]}.{'EH'[m[1] == 'norms']}", name)
        )
    assert names == stored_names()[model_type], model_type


JOINED = {
    "phi3": [
        "query_states = qkv[..., :query_pos]",
        "value_states = qkv[..., query_pos + self.num_key_value_heads * self.head_dim :]",
        "gate, up_states = up_states.chunk(2, dim=-1)",
    ],
    "glm4": ["gate, up_states = up_states.chunk(2, dim=-1)"],
    "gpt_neox": ["hidden_shape = (*input_shape, -1, 3 * self.head_size)", "= qkv.chunk(3, dim=-1)"],
    "falcon": [
        "fused_qkv.view(batch, seq_len, -1, self.num_heads // self.num_kv_heads + 2, self.head_dim)",
        "return fused_qkv[..., :-2, :], fused_qkv[..., [-2], :], fused_qkv[..., [-1], :]",
    ],
    "gpt2": ["self.c_attn(hidden_states).split(self.split_size, dim=2)", "self.c_fc = Conv1D("],
    "gpt_oss": [
        "gate, up = gate_up[..., ::2], gate_up[..., 1::2]",
        "gate = gate.clamp(min=None, max=self.limit)",
        "gated_output = (up + 1) * glu",
        "current_state @ self.gate_up_proj[expert_idx]",
    ],
    "granitemoe": ["self.gate_up_proj[expert_idx]).chunk(2, dim=-1)"],
    "deepseek_v3": ["torch.split(kv_nope, [self.qk_nope_head_dim, self.v_head_dim], dim=-1)"],
    "opt": ["self.offset = 2"],
}
"""The lines that say how the parts of a joined tensor lie, as the page does in words."""


@pytest.mark.parametrize("model_type", JOINED)
def test_joined_tensors_are_split_as_the_page_says(tiny, model_type):
    with open(tiny(model_type, 1).source.__file__) as file:
        source = file.read()
    assert [line for line in JOINED[model_type] if line not in source] == []

"""Files of families that name and arrange tensors otherwise: where parameters are in them, read and written."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.checkpoint.tiny import hf_config, random_tensors
from xplm.backend import load_backend
from xplm.checkpoint.adapter import adapter_product, merge_adapter, read_adapter, write_adapter
from xplm.checkpoint.convert import convert
from xplm.checkpoint.files import write_json
from xplm.checkpoint.huggingface import open_directory
from xplm.checkpoint.layouts import Stored, join, split, stored_tensors
from xplm.checkpoint.load import load_params
from xplm.checkpoint.save import save_directory
from xplm.errors import CheckpointError
from xplm.models.decoder import param_specs
from xplm.models.families.config_json import read_config
from xplm.models.families.stored import StoredAs
from xplm.models.families.table import FAMILIES
from xplm.runtime import make_runtime

GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 20,
    "n_embd": 8,
    "n_inner": 12,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 16,
}
STARCODER2 = {
    "model_type": "starcoder2",
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "use_bias": True,
    "norm_epsilon": 1e-5,
}


def write(path, hf):
    """A directory as `save_directory` writes it, and what went into it."""
    config, tensors = read_config(hf), random_tensors(hf)
    shapes = {name: x.shape for name, x in tensors.items()}
    save_directory(
        path,
        config,
        shapes,
        lambda name, dtype: tensors[name].astype(dtype),
        "float32",
        lambda _: None,
    )
    return tensors


def load(path):
    return load_params(open_directory(path), make_runtime(load_backend("numpy"), "fp32"))


@pytest.mark.parametrize("hf", [GPT2, STARCODER2], ids=["gpt2", "starcoder2"])
def test_written_and_read_back(tmp_path, hf):
    tensors = write(tmp_path / "model", hf)
    params = load(tmp_path / "model")
    assert list(params) == list(param_specs(read_config(hf)))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(params[name], tensor)


def test_gpt2_joins_q_k_and_v_and_transposes_matrices(tmp_path):
    ours = write(tmp_path / "model", GPT2)
    stored = load_file(tmp_path / "model" / "model.safetensors")
    layer, attention = "transformer.h.1", "model.layers.1.self_attn"
    q, k, v = (ours[f"{attention}.{part}_proj.weight"] for part in "qkv")
    np.testing.assert_array_equal(stored[f"{layer}.attn.c_attn.weight"], np.hstack([q.T, k.T, v.T]))
    biases = [ours[f"{attention}.{part}_proj.bias"] for part in "qkv"]
    np.testing.assert_array_equal(stored[f"{layer}.attn.c_attn.bias"], np.concatenate(biases))
    np.testing.assert_array_equal(
        stored[f"{layer}.mlp.c_fc.weight"], ours["model.layers.1.mlp.up_proj.weight"].T
    )
    np.testing.assert_array_equal(
        stored["transformer.wte.weight"], ours["model.embed_tokens.weight"]
    )
    np.testing.assert_array_equal(
        stored["transformer.wpe.weight"], ours["model.embed_positions.weight"]
    )
    assert stored[f"{layer}.ln_2.weight"].shape == (8,)


def test_starcoder2_differs_in_two_names(tmp_path):
    ours = write(tmp_path / "model", STARCODER2)
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert {name.replace("c_fc", "up_proj").replace("c_proj", "down_proj") for name in stored} == {
        *ours
    }


def test_files_of_the_bare_gpt2_have_no_prefix_but_its_masks(tmp_path):
    ours = write(tmp_path / "model", GPT2)
    file = tmp_path / "model" / "model.safetensors"
    bare = {name.removeprefix("transformer."): x for name, x in load_file(file).items()}
    bare["h.0.attn.bias"] = np.ones((1, 1, 16, 16), np.float32)
    bare["h.1.attn.masked_bias"] = np.zeros((), np.float32)
    save_file(bare, file)
    params = load(tmp_path / "model")
    for name, tensor in ours.items():
        np.testing.assert_array_equal(params[name], tensor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"transformer.h.0.attn.c_attn.weight": np.zeros((8, 21), np.float32)},
            r"c_attn\.weight of shape \(8, 21\) where \(8, 24\)",
        ),
        (
            {"transformer.h.0.attn.c_attn.weight": np.zeros((8, 20), np.float32)},
            r"\(8, 20\) where \(8, 24\)",
        ),
        (
            {"model.layers.0.self_attn.k_proj.bias": np.zeros(8, np.float32)},
            r"self_attn\.k_proj\.bias and transformer\.h\.0\.attn\.c_attn\.bias",
        ),
        (
            {"transformer.h.0.extra": np.zeros(3, np.float32)},
            r"unexpected: transformer\.h\.0\.extra",
        ),
        ({"transformer.ln_f.bias": None}, r"missing: model\.norm\.bias"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, message):
    write(tmp_path / "model", GPT2)
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file) | change
    save_file({name: x for name, x in tensors.items() if x is not None}, file)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "model")


@pytest.mark.parametrize("n_absent", [1, 2])
def test_experts_that_are_not_all_there_are_named(tmp_path, n_absent):
    experts = {"num_local_experts": 3, "num_experts_per_tok": 2}
    write(tmp_path / "model", hf_config(model_type="mixtral", **experts))
    file = tmp_path / "model" / "model.safetensors"
    module = "model.layers.1.block_sparse_moe.experts"
    absent = [f"{module}.{number}.w3.weight" for number in range(n_absent)]
    save_file({name: x for name, x in load_file(file).items() if name not in absent}, file)
    with pytest.raises(CheckpointError) as refused:
        load(tmp_path / "model")
    said = f"must hold all 3 of {module}.{{}}.w3.weight; it lacks {', '.join(absent)}; download"
    assert said in str(refused.value)


Q, K, V = (
    np.arange(n)[:, None] + np.array([[base, base + 0.5]]) for n, base in ((8, 0), (4, 20), (4, 40))
)


@pytest.mark.parametrize(
    ("groups", "order"),
    [
        (1, [*range(8), *range(20, 24), *range(40, 44)]),
        (2, [0, 1, 2, 3, 20, 21, 40, 41, 4, 5, 6, 7, 22, 23, 42, 43]),
        (4, [0, 1, 20, 40, 2, 3, 21, 41, 4, 5, 22, 42, 6, 7, 23, 43]),
    ],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_rows_of_several_heights_are_joined_group_by_group(groups, order, axis):
    parts = [np.stack([x, x + 100]) if axis else x for x in (Q, K, V)]
    whole = join(parts, groups, axis)
    expected = np.array(order)[:, None] + np.array([0, 0.5])
    np.testing.assert_array_equal(whole[1] - 100 if axis else whole, expected)
    for back, part in zip(split(whole, (8, 4, 4), groups, axis), parts, strict=True):
        np.testing.assert_array_equal(back, part)


def test_columns_in_turn_of_transposed_experts():
    E, F, C = 3, 4, 2
    layout = StoredAs("gate_up_proj", groups=F, axis=1, is_transposed=True)
    stored = Stored("gate_up_proj", ("gate", "up"), layout, is_transposed=True)
    gate, up = np.random.default_rng(0).standard_normal((2, E, F, C))
    whole = stored.join([gate, up])
    assert whole.shape == stored.shape([gate.shape, up.shape]) == (E, C, 2 * F)
    np.testing.assert_array_equal(whole[..., ::2], gate.swapaxes(1, 2))
    np.testing.assert_array_equal(whole[..., 1::2], up.swapaxes(1, 2))
    for back, part in zip(stored.split(whole, [gate.shape] * 2), (gate, up), strict=True):
        np.testing.assert_array_equal(back, part)


@pytest.fixture
def like_llama(monkeypatch):
    """like_llama(modules): a Llama whose file stores modules so."""

    def make(modules):
        monkeypatch.setitem(FAMILIES, "llama", replace(FAMILIES["llama"], modules=modules))
        return hf_config(tie_word_embeddings=False)

    return make


@pytest.mark.parametrize("is_transposed", [False, True])
def test_a_family_that_joins_and_renames_is_written_and_read_back(
    tmp_path, like_llama, is_transposed
):
    """Names that are another's of ours are no obstacle."""
    qkv = StoredAs("self_attn.qkv_proj", groups=2, is_transposed=is_transposed)
    gate_up = StoredAs("mlp.gate_up_proj", is_transposed=is_transposed)
    norm = "post_attention_layernorm"
    hf = like_llama(
        {f"self_attn.{part}_proj": qkv for part in "qkv"}
        | {f"mlp.{part}_proj": gate_up for part in ("gate", "up")}
        | {"input_layernorm": norm, norm: "input_layernorm"}
    )
    ours = write(tmp_path / "model", hf)
    stored = load_file(tmp_path / "model" / "model.safetensors")
    layer = "model.layers.1"
    shape = stored[f"{layer}.self_attn.qkv_proj.weight"].shape
    assert shape == ((32, 64) if is_transposed else (64, 32))
    np.testing.assert_array_equal(
        stored[f"{layer}.{norm}.weight"], ours[f"{layer}.input_layernorm.weight"]
    )
    params = load(tmp_path / "model")
    assert params.keys() == ours.keys()
    for name, tensor in ours.items():
        np.testing.assert_array_equal(params[name], tensor)


def test_entries_of_a_first_axis_by_their_numbers(tmp_path, like_llama):
    """Of rows, for want of experts: entries of a matrix's first axis."""
    hf = like_llama({"mlp.gate_proj": StoredAs("mlp.rows.{}.gate")})
    ours = write(tmp_path / "model", hf)
    file = tmp_path / "model" / "model.safetensors"
    stored = load_file(file)
    name = "model.layers.1.mlp.gate_proj.weight"
    np.testing.assert_array_equal(stored["model.layers.1.mlp.rows.63.gate.weight"], ours[name][63])
    np.testing.assert_array_equal(load(tmp_path / "model")[name], ours[name])

    del stored["model.layers.1.mlp.rows.5.gate.weight"]
    save_file(stored, file)
    with pytest.raises(CheckpointError, match=r"lacks model\.layers\.1\.mlp\.rows\.5\.gate\.w"):
        load(tmp_path / "model")
    stored["model.layers.1.mlp.rows.5.gate.weight"] = np.zeros(31, np.float32)
    save_file(stored, file)
    with pytest.raises(
        CheckpointError, match=r"rows\.5\.gate\.weight of shape \(31,\) where \(32,\)"
    ):
        load(tmp_path / "model")


def test_adapters_of_joined_matrices_have_their_rows(tmp_path, like_llama):
    hf = like_llama(
        {f"self_attn.{p}_proj": StoredAs("self_attn.qkv_proj", groups=2) for p in "qkv"}
    )
    config, rng = read_config(hf), np.random.default_rng(0)
    layers = [f"model.layers.{n}.self_attn.{part}_proj" for n in range(2) for part in "qkv"]
    shapes = {layer: param_specs(config)[f"{layer}.weight"].shape for layer in layers}
    given = {
        f"{layer}.lora_A.weight": rng.standard_normal((3, n)) for layer, (_, n) in shapes.items()
    }
    given |= {
        f"{layer}.lora_B.weight": rng.standard_normal((n, 3)) for layer, (n, _) in shapes.items()
    }
    given = {name: array.astype(np.float32) for name, array in given.items()}
    tmp_path.joinpath("adapter").mkdir()
    write_adapter(tmp_path / "adapter", config, given, base="base")
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    module = "base_model.model.model.layers.1.self_attn.qkv_proj"
    a, b = (stored[f"{module}.lora_{part}.weight"] for part in "AB")
    assert (a.shape, b.shape) == ((9, 32), (64, 9))
    products = [adapter_product(given, layer) for layer in layers[3:]]
    np.testing.assert_allclose(b @ a, join(products, 2), atol=1e-5)  # sums of 9 terms of order 10
    back = read_adapter(tmp_path / "adapter", config)
    for layer in layers:
        np.testing.assert_allclose(
            adapter_product(back, layer), adapter_product(given, layer), atol=1e-5
        )


def test_adapters_of_experts_one_by_one_are_merged(tmp_path):
    """Of two ranks, and of some experts alone."""
    hf = hf_config(model_type="mixtral", num_local_experts=3, num_experts_per_tok=2)
    ours, config, rng = write(tmp_path / "model", hf), read_config(hf), np.random.default_rng(0)
    module = "model.layers.1.block_sparse_moe.experts"
    tensors, deltas = {}, {}
    for number, rank in ((0, 2), (2, 4)):
        a, b = (rng.standard_normal(s, np.float32) for s in ((rank, 64), (32, rank)))
        name = f"base_model.model.{module}.{number}.w2"
        tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
        deltas[number] = b @ a * (8 / rank)
    tmp_path.joinpath("adapter").mkdir()
    save_file(tensors, tmp_path / "adapter" / "adapter_model.safetensors")
    facts = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": ["w2"]}
    facts |= {"rank_pattern": {"experts.2.w2": 4}}
    write_json(tmp_path / "adapter" / "adapter_config.json", facts)

    rt, name = make_runtime(load_backend("numpy"), "fp32"), "model.layers.1.mlp.experts.down_proj"
    adapters = read_adapter(tmp_path / "adapter", config)
    params = load(tmp_path / "model")
    merged = merge_adapter(rt, params, adapters)
    expected = ours[f"{name}.weight"].copy()
    for number, delta in deltas.items():
        expected[number] += delta
    np.testing.assert_allclose(merged[f"{name}.weight"], expected, atol=1e-5)  # sums of 4 terms
    assert all(merged[n] is params[n] for n in params if n != f"{name}.weight")

    convert(tmp_path / "model", tmp_path / "merged", "fp32", adapter=tmp_path / "adapter")
    np.testing.assert_array_equal(
        load(tmp_path / "merged")[f"{name}.weight"], merged[f"{name}.weight"]
    )


def test_every_parameter_lies_in_one_stored_tensor():
    for hf in (GPT2, STARCODER2):
        config = read_config(hf)
        stored = [name for row in stored_tensors(config) for name in row.parameters]
        assert sorted(stored) == sorted(param_specs(config))


def test_a_llama_is_stored_as_it_is(tmp_path):
    hf = STARCODER2 | {"model_type": "llama"}
    tensors = write(tmp_path / "model", hf)
    assert {*load_file(tmp_path / "model" / "model.safetensors")} == {*tensors}
    write_json(tmp_path / "model" / "config.json", hf)
    assert {*load(tmp_path / "model")} == {*tensors}

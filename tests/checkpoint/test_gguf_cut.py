"""Parameters that a GGUF file holds in several tensors."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader
from gguf.quants import dequantize, quantize

from tests.checkpoint.tiny import hf_config, random_tensors, write_gguf
from xplm.checkpoint.gguf import open_gguf
from xplm.errors import CheckpointError

FLOAT32 = np.dtype(np.float32)
H, N, DV, R = 4, 32, 6, 64
LATENT = hf_config(
    model_type="deepseek_v2",
    num_key_value_heads=H,
    q_lora_rank=12,
    kv_lora_rank=R,
    qk_nope_head_dim=N,
    qk_rope_head_dim=4,
    v_head_dim=DV,
    n_routed_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=32,
)
MIXTRAL = hf_config(
    model_type="mixtral",
    num_local_experts=4,
    num_experts_per_tok=2,
    tie_word_embeddings=False,
)
KV_B = "model.layers.1.self_attn.kv_b_proj.weight"
KEYS, VALUES = "blk.1.attn_k_b.weight", "blk.1.attn_v_b.weight"


def test_rows_of_each_head_are_put_together(tmp_path):
    tensors = random_tensors(LATENT)
    path = write_gguf(tmp_path / "m.gguf", LATENT, tensors)
    stored = {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}
    assert stored[KEYS].shape == (H, R, N)
    assert stored[VALUES].shape == (H, DV, R)

    wanted = tensors[KV_B]
    second = wanted[N + DV : 2 * (N + DV)]  # the rows of the second head
    np.testing.assert_array_equal(stored[KEYS][1], second[:N].T)
    np.testing.assert_array_equal(stored[VALUES][1], second[N:])
    checkpoint = open_gguf(path)
    assert checkpoint.tensors[KV_B].shape == wanted.shape
    np.testing.assert_array_equal(checkpoint.read(KV_B, FLOAT32), wanted)
    assert not {KEYS, VALUES} & checkpoint.tensors.keys()


def test_each_part_is_dequantised_by_its_own_rows(tmp_path):
    tensors, kind = random_tensors(LATENT), Kind.Q8_0

    def keep(stored):
        """The two alone in the kind, for other rows are no multiple of its blocks."""
        return {name: stored[name] for name in (KEYS, VALUES, "token_embd.weight")}

    path = write_gguf(tmp_path / "m.gguf", LATENT, tensors, kind, change=keep)
    heads = tensors[KV_B].reshape(H, N + DV, R)
    keys, values = (
        dequantize(quantize(np.ascontiguousarray(part), kind), kind)
        for part in (heads[:, :N].swapaxes(1, 2), heads[:, N:])
    )
    wanted = np.concatenate([keys.swapaxes(1, 2), values], axis=1).reshape(-1, R)
    checkpoint = open_gguf(path)
    assert checkpoint.tensors[KV_B].kind == kind.name
    np.testing.assert_array_equal(checkpoint.read(KV_B, FLOAT32), wanted)


def test_a_part_of_a_kind_that_cannot_be_read_is_told(tmp_path):
    tensors = random_tensors(LATENT)

    def change(stored):
        return stored | {VALUES: stored[VALUES].astype(np.int8)}

    path = write_gguf(tmp_path / "m.gguf", LATENT, tensors, change=change)
    assert open_gguf(path).tensors[KV_B].kind == "I8"


@pytest.mark.parametrize(
    "shape",
    [(H - 1, DV, R), (H, DV, R - 1), (H * DV, R)],
    ids=["heads", "inputs", "two dimensions"],
)
def test_parts_that_do_not_fit_are_refused(tmp_path, shape):
    path = write_gguf(
        tmp_path / "m.gguf",
        LATENT,
        random_tensors(LATENT),
        change=lambda stored: stored | {VALUES: np.zeros(shape, np.float32)},
    )
    with pytest.raises(CheckpointError, match=r"attn_k_b\.weight \(4, 64, 32\), blk\.1\.attn_v_b"):
        open_gguf(path)


def test_a_parameter_that_is_stored_whole_and_in_parts_is_refused(tmp_path):
    tensors = random_tensors(LATENT)
    extra = {"blk.1.attn_kv_b.weight": tensors[KV_B]}
    path = write_gguf(tmp_path / "m.gguf", LATENT, tensors, extra=extra)
    with pytest.raises(CheckpointError, match=r"layers\.1\.self_attn\.kv_b_proj\.weight twice"):
        open_gguf(path)


def test_a_part_without_the_other_is_no_parameter(tmp_path):
    path = write_gguf(
        tmp_path / "m.gguf",
        LATENT,
        random_tensors(LATENT),
        change=lambda stored: {name: x for name, x in stored.items() if name != KEYS},
    )
    tensors = open_gguf(path).tensors
    assert VALUES in tensors
    assert KV_B not in tensors


def numbered(stored):
    """One tensor for each expert, as files of the first Mixtral have them."""
    old = {}
    for name, array in stored.items():
        if "_exps" not in name:
            old[name] = array
            continue
        for number, expert in enumerate(array):
            old[name.replace("_exps", f".{number}")] = expert
    return old


@pytest.mark.parametrize("kind", [Kind.F32, Kind.Q8_0], ids=lambda kind: kind.name)
def test_experts_of_one_tensor_each_are_stacked(tmp_path, kind):
    tensors = random_tensors(MIXTRAL)
    path = write_gguf(tmp_path / "m.gguf", MIXTRAL, tensors, kind, change=numbered)
    assert "blk.1.ffn_up.3.weight" in {tensor.name for tensor in GGUFReader(path).tensors}
    checkpoint = open_gguf(path)
    newer = open_gguf(write_gguf(tmp_path / "n.gguf", MIXTRAL, tensors, kind))
    assert checkpoint.config == newer.config
    assert checkpoint.tensors == newer.tensors
    for name in tensors:
        np.testing.assert_array_equal(checkpoint.read(name, FLOAT32), newer.read(name, FLOAT32))


def without_one(stored):
    return {name: x for name, x in numbered(stored).items() if name != "blk.1.ffn_up.2.weight"}


def with_another_shape(stored):
    return numbered(stored) | {"blk.1.ffn_up.2.weight": np.zeros((8, 32), np.float32)}


@pytest.mark.parametrize("change", [without_one, with_another_shape])
def test_experts_that_are_no_stack_are_refused(tmp_path, change):
    path = write_gguf(tmp_path / "m.gguf", MIXTRAL, random_tensors(MIXTRAL), change=change)
    with pytest.raises(CheckpointError, match=r"numbered from 0 .* of blk\.1\.ffn_up_exps\.weight"):
        open_gguf(path)

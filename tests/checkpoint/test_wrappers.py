"""A model of text and pictures opens as its text model."""

import numpy as np
import pytest

from tests.checkpoint.tiny import hf_config, random_tensors, write_directory
from xplm.checkpoint.huggingface import open_directory
from xplm.errors import ConfigError
from xplm.models.families.wrappers import text_config

FLOAT32 = np.dtype(np.float32)
TEXT = hf_config(model_type="mistral", sliding_window=None, tie_word_embeddings=False)
WRAPPED = {
    "model_type": "mistral3",
    "text_config": TEXT,
    "vision_config": {"model_type": "pixtral", "hidden_size": 8},
    "projector_hidden_act": "gelu",
}
PICTURES = {
    "vision_tower.patch_conv.weight": np.zeros((8, 3, 2, 2), np.float32),
    "multi_modal_projector.linear_1.weight": np.zeros((32, 8), np.float32),
}
SPELLINGS = {
    "in a model of its own": lambda name: f"language_model.{name}",
    "in the model": lambda name: name.replace("model.", "model.language_model."),
}


def write(path, tensors, spelling, config=WRAPPED):
    pictures = PICTURES
    if spelling == "in the model":
        pictures = {f"model.{name}": array for name, array in PICTURES.items()}
    stored = {SPELLINGS[spelling](name): array for name, array in tensors.items()}
    return write_directory(path, config, [stored, pictures])


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_text_model_is_read_and_pictures_are_left_out(tmp_path, caplog, spelling):
    tensors = random_tensors(TEXT)
    checkpoint = open_directory(write(tmp_path / "m", tensors, spelling))
    (said,) = [r.getMessage() for r in caplog.records]
    assert said == (
        "this mistral3 is read as its text model: pictures are left out, and 2 tensors of theirs are not read"
    )
    assert (
        checkpoint.config == open_directory(write_directory(tmp_path / "t", TEXT, [tensors])).config
    )
    assert checkpoint.tensors.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(checkpoint.read(name, FLOAT32), array)


def test_without_a_head_of_its_own_it_is_tied(tmp_path):
    tensors = random_tensors(TEXT | {"tie_word_embeddings": True})
    checkpoint = open_directory(write(tmp_path / "m", tensors, "in the model"))
    assert checkpoint.config.tie_word_embeddings


def test_what_text_config_leaves_out_is_that_of_the_wrapper():
    text = {key: value for key, value in TEXT.items() if key not in ("model_type", "eos_token_id")}
    hf = WRAPPED | {"text_config": text, "eos_token_id": [5, 6], "tie_word_embeddings": True}
    assert text_config(hf) == TEXT | {"eos_token_id": [5, 6]}
    del text["tie_word_embeddings"]
    assert text_config(hf)["tie_word_embeddings"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (WRAPPED | {"text_config": None}, "text_config of a mistral3 is an object; got None"),
        (WRAPPED | {"text_config": {"model_type": "bert"}}, "model_type is one of .* got 'bert'"),
        (WRAPPED | {"model_type": "paligemma"}, "model_type is one of .* got 'paligemma'"),
        (
            WRAPPED | {"quantization_config": {"quant_method": "fp8"}},
            "weights must be plain floats",
        ),
    ],
)
def test_another_wrapper_is_refused(tmp_path, config, message):
    with pytest.raises(ConfigError, match=message):
        open_directory(write(tmp_path / "m", random_tensors(TEXT), "in the model", config))

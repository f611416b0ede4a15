"""The text model inside a model of text and pictures computes what transformers' model computes without a picture."""

import numpy as np
import pytest

import xplm
from xplm.checkpoint.convert import convert

IDS = list(range(3, 43))
TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
WRAPPERS = {
    "mistral3": {
        "text_config": TEXT | {"model_type": "mistral", "sliding_window": None},
        "vision_config": {
            "model_type": "pixtral",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 8,
            "image_size": 16,
            "patch_size": 4,
        },
        "image_token_index": 1,
        "tie_word_embeddings": False,
    },
}


@pytest.fixture(scope="module", params=WRAPPERS)
def wrapped(request, torch, transformers, tmp_path_factory):
    """A tiny model of text and pictures, and its directory."""
    config = transformers.AutoConfig.for_model(request.param, **WRAPPERS[request.param])
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            is_matrix = parameter.dim() > 1
            parameter.normal_(0.0 if is_matrix else 1.0, 0.3 if is_matrix else 0.1)
    path = tmp_path_factory.mktemp("wrapped") / request.param
    model.save_pretrained(path)
    return model, path


def test_logits_are_those_without_a_picture(torch, wrapped, load_oracle, tmp_path, caplog):
    model, path = wrapped
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([IDS])).logits[0].numpy()
    lm = xplm.load(path)
    assert "pictures are left out" in caplog.text
    np.testing.assert_allclose(lm.logits(IDS), expected, rtol=0, atol=1e-4)

    convert(path, tmp_path / "text", "fp32")
    converted = load_oracle(tmp_path / "text")
    assert converted.model.config.model_type == lm.config.model_type
    np.testing.assert_allclose(converted.logits(IDS), expected, rtol=0, atol=1e-4)

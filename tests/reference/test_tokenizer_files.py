"""Files beside tokenizer.json say the same to AutoTokenizer of transformers and to xplm: ids, texts and chats."""

import warnings

import pytest

from tests.text.directories import (
    N_TOKENS,
    SPECIAL,
    added,
    byte_level,
    metaspace,
    write_tokenizer,
)
from xplm.errors import TemplateError
from xplm.text.chat_encoder import ChatEncoder
from xplm.text.tokenizer import Tokenizer

N = N_TOKENS
BASE = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
DECODER = {str(i): added(token, special=True) for i, token in enumerate(SPECIAL)}
NEW = {str(N): added("<|eot|>", special=True), str(N + 1): added("<tool>")}
TEXTS = [
    "a<|eot|><tool>b",
    " <|eot|> x <tool> <plain> y",
    "<s>hi</s><|im_start|>",
    "<image> [PAD]<one><two>",
    "a <|im_end|> b",
    "ab a",
    "<TOOL>",
]

CONFIGS = {
    "nothing": {"tokenizer_config_json": BASE},
    "no config at all": {},
    "decoder": {"tokenizer_config_json": BASE | {"added_tokens_decoder": NEW}},
    "decoder of all": {"tokenizer_config_json": BASE | {"added_tokens_decoder": DECODER | NEW}},
    "decoder changes flags": {
        "tokenizer_config_json": BASE
        | {
            "added_tokens_decoder": {
                "3": added("<|im_end|>", special=True, lstrip=True, rstrip=True)
            }
        }
    },
    "decoder calls a special token plain": {
        "tokenizer_config_json": BASE | {"added_tokens_decoder": {"3": added("<|im_end|>")}}
    },
    "decoder makes a vocabulary's token an added one": {
        "tokenizer_config_json": BASE
        | {"added_tokens_decoder": {str(N - 1): added("<plain>", special=True)}}
    },
    "decoder, and names in it": {
        "tokenizer_config_json": BASE | {"added_tokens_decoder": NEW, "eos_token": "<|eot|>"}
    },
    "a name makes a token of the decoder special": {
        "tokenizer_config_json": BASE | {"added_tokens_decoder": NEW, "pad_token": "<tool>"}
    },
    "decoder beside the map": {
        "tokenizer_config_json": BASE | {"added_tokens_decoder": NEW},
        "special_tokens_map_json": {"pad_token": "<|im_end|>"},
    },
    "added_tokens.json": {
        "tokenizer_config_json": BASE,
        "added_tokens_json": {"<|eot|>": N, "<tool>": N + 1},
    },
    "added_tokens.json and names": {
        "tokenizer_config_json": BASE | {"additional_special_tokens": ["<|eot|>"]},
        "added_tokens_json": {"<|eot|>": N, "<tool>": N + 1},
    },
    "map": {"special_tokens_map_json": {"eos_token": "<|im_end|>", "pad_token": added("<|eot|>")}},
    "map wins over config": {
        "tokenizer_config_json": BASE,
        "special_tokens_map_json": {"eos_token": "<|im_end|>", "unk_token": "<plain>"},
    },
    "map with more tokens": {
        "tokenizer_config_json": BASE,
        "special_tokens_map_json": {"additional_special_tokens": ["<|eot|>", "<plain>"]},
    },
    "named tokens that are nowhere": {
        "tokenizer_config_json": BASE | {"pad_token": "[PAD]", "mask_token": "<tool>"}
    },
    "a named token with flags": {
        "tokenizer_config_json": BASE
        | {"pad_token": {"__type": "AddedToken"} | added("[PAD]", lstrip=True, special=True)}
    },
    "extra_special_tokens": {
        "tokenizer_config_json": BASE | {"extra_special_tokens": ["<one>", "<two>", "<plain>"]}
    },
    "additional_special_tokens": {
        "tokenizer_config_json": BASE | {"additional_special_tokens": ["<two>", "<one>"]}
    },
    "both lists": {
        "tokenizer_config_json": BASE
        | {"additional_special_tokens": ["<two>"], "extra_special_tokens": ["<one>"]}
    },
    "a model's own names": {
        "tokenizer_config_json": BASE
        | {"image_token": "<image>", "extra_special_tokens": {"one_token": "<one>"}}
    },
    "add_bos_token": {"tokenizer_config_json": BASE | {"add_bos_token": True}},
    "prefix space, as it is": {"tokenizer_config_json": BASE | {"add_prefix_space": True}},
    "prefix space of GPT-2": {
        "tokenizer_config_json": BASE
        | {"tokenizer_class": "GPT2Tokenizer", "unk_token": "</s>", "add_prefix_space": True}
    },
}


@pytest.fixture(scope="module")
def reference(transformers):
    def load(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of others' code
            return transformers.AutoTokenizer.from_pretrained(path)

    return load


def assert_equal(ours, theirs, texts=TEXTS):
    for text in texts:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids, text
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text
    assert ours.special_tokens == theirs.special_tokens_map


@pytest.mark.parametrize("name", CONFIGS)
def test_tokens_are_those_of_transformers(reference, tmp_path, name):
    path = write_tokenizer(tmp_path, byte_level(), **CONFIGS[name])
    assert_equal(Tokenizer.from_directory(path), reference(path))


@pytest.mark.parametrize("name", ["decoder", "added_tokens.json and names", "a model's own names"])
def test_what_is_saved_means_the_same_to_transformers(reference, tmp_path, name):
    tokenizer = Tokenizer.from_directory(
        write_tokenizer(tmp_path / "a", byte_level(), **CONFIGS[name])
    )
    (tmp_path / "b").mkdir()
    tokenizer.save(tmp_path / "b")
    assert_equal(tokenizer, reference(tmp_path / "b"))


EACH_CLASS = ["llama", "mistral", "qwen2", "gpt2", "cohere", "gpt_neox"]
MODEL_TYPES = [
    "starcoder2", "qwen3", "phi", "phi3", "olmo2", "olmo3", "smollm3", "granite", "glm4",
    "stablelm", "cohere2", "ernie4_5", "seed_oss", "nemotron", "arcee", "exaone4", "falcon", "opt",
    "mixtral", "qwen3_moe", "qwen2_moe", "olmoe", "granitemoe", "glm4_moe", "gpt_oss",
    "deepseek_v2", "deepseek_v3",
]  # fmt: skip
TOKENS = {"bos_token": "<s>"} | dict.fromkeys(
    [f"{name}_token" for name in ("eos", "unk", "pad", "cls", "sep", "mask")], "</s>"
)


@pytest.mark.parametrize("name", [None, "GPT2Tokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize(
    "model_type",
    [None, *EACH_CLASS, *(pytest.param(t, marks=pytest.mark.nightly) for t in MODEL_TYPES)],
)
def test_a_prefix_space_is_where_the_class_puts_one(reference, tmp_path, model_type, name):
    files = {"tokenizer_config_json": TOKENS | ({"tokenizer_class": name} if name else {})}
    if model_type:
        files["config_json"] = {"model_type": model_type}
    path = write_tokenizer(tmp_path, byte_level(prefix_space=True), **files)
    assert_equal(Tokenizer.from_directory(path), reference(path))


@pytest.mark.parametrize("name", [None, "GemmaTokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize(
    "model_type", ["gemma", "gemma2", "gemma3_text", "llama", "mixtral", "phi3"]
)
def test_a_prefix_space_of_sentencepiece_is_where_the_class_puts_one(
    reference, tmp_path, model_type, name
):
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    config = names | {"mask_token": "</s>"} | ({"tokenizer_class": name} if name else {})
    files = {"tokenizer_config_json": config, "config_json": {"model_type": model_type}}
    path = write_tokenizer(tmp_path, metaspace("first"), **files)
    assert_equal(Tokenizer.from_directory(path), reference(path), ["ab a", " a", "a</s>ab", ""])


@pytest.mark.parametrize("on", [True, False])
def test_prefix_space_of_a_llama(reference, tmp_path, on):
    config = {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": on}
    config |= {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    pipeline = metaspace("never" if on else "first")
    path = write_tokenizer(tmp_path, pipeline, tokenizer_config_json=config)
    ours, theirs = Tokenizer.from_directory(path), reference(path)
    assert_equal(ours, theirs, ["ab a", " a", "a</s>ab", ""])


def turn(content):
    return [{"role": "user", "content": content}]


SOURCE = "{{ bos_token }}%s{{ messages[0].content }}{{ eos_token }}"
NAMED = [{"name": name, "template": SOURCE % name} for name in ("default", "tool_use", "rag")]
TEMPLATES = {
    "text": {"tokenizer_config_json": BASE | {"chat_template": SOURCE % "one"}},
    "list": {"tokenizer_config_json": BASE | {"chat_template": NAMED}},
    "list without a default": {"tokenizer_config_json": BASE | {"chat_template": NAMED[1:]}},
    "list with a default only": {"tokenizer_config_json": BASE | {"chat_template": NAMED[:1]}},
    "file": {
        "tokenizer_config_json": BASE | {"chat_template": NAMED},
        "chat_template_jinja": SOURCE % "file",
    },
    "file and folder": {
        "tokenizer_config_json": BASE,
        "chat_template_jinja": SOURCE % "file",
        "additional_chat_templates__tool_use_jinja": SOURCE % "tools",
    },
    "folder alone": {
        "tokenizer_config_json": BASE | {"chat_template": SOURCE % "one"},
        "additional_chat_templates__tool_use_jinja": SOURCE % "tools",
    },
    "default in the folder": {
        "tokenizer_config_json": BASE,
        "additional_chat_templates__default_jinja": SOURCE % "one",
    },
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_chat_templates_are_chosen_as_by_transformers(reference, tmp_path, name):
    path = write_tokenizer(tmp_path, byte_level(), **TEMPLATES[name])
    encoder, theirs = ChatEncoder(Tokenizer.from_directory(path)), reference(path)
    choices = [{}, {"tools": []}, {"tools": [{"type": "function"}]}, {"chat_template": "rag"}]
    for choice in choices[: 4 if name == "list" else 3]:
        try:
            expected = theirs.apply_chat_template(turn("hi"), tokenize=True, **choice)["input_ids"]
        except ValueError:
            with pytest.raises(TemplateError, match="one of this model's chat templates"):
                encoder.encode(turn("hi"), **choice)
        else:
            assert encoder.encode(turn("hi"), add_generation_prompt=False, **choice) == expected

"""Make tiny models with random weights, one for each family and flag that xplm has, as transformers saves them.

    python scripts/make_tiny_models.py DIRECTORY [NAME ...]

writes one Hugging Face directory a model. They are what xplm is compared with transformers on. Needs torch and
transformers: pip install ".[reference]".
"""

import argparse
import json
from pathlib import Path
from zlib import crc32

import torch
from safetensors.torch import load_file, save_file
from tiny_recipes import RECIPES
from tiny_recipes.recipe import BASE
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING


def make_model(name: str, directory: Path) -> Path:
    """Make one model.

    Args:
        name: a key of RECIPES; it also seeds the weights.
        directory: where its own directory goes.

    Returns:
        The model's directory.
    """
    recipe, path = RECIPES[name], directory / name
    rope = {"rope_theta": 10000.0} | (recipe.rope or {"rope_type": "default"})
    config_class = CONFIG_MAPPING[recipe.model_type]
    known = config_class().to_dict().keys() | config_class.attribute_map
    base = {key: value for key, value in (BASE | {"rope_parameters": rope}).items() if key in known}
    config = config_class(**(base | recipe.config))

    generator = torch.Generator().manual_seed(crc32(name.encode()))
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        # transformers starts biases at 0 and norms at 1, where a forgotten one would not show.
        corrections = [
            pair for pair in model.named_buffers() if pair[0].endswith("correction_bias")
        ]
        for parameter_name, parameter in [*model.named_parameters(), *corrections]:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.2 * noise + (1.0 if "norm" in parameter_name else 0.0))

    model = model.to(getattr(torch, recipe.dtype))
    model.save_pretrained(path, max_shard_size=recipe.max_shard_size)
    if recipe.old_spelling:
        respell(path / "config.json")
    if recipe.embedding_name:
        rename_embedding(path / "model.safetensors", recipe.embedding_name)
    save_byte_tokenizer(path)
    return path


def respell(config: Path) -> None:
    """Write RoPE as config.json did before transformers 5."""
    hf = json.loads(config.read_text())
    rope = hf.pop("rope_parameters")
    if "full_attention" in rope:
        if hf["model_type"] == "gemma3_text":
            hf["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    hf["rope_theta"] = rope.pop("rope_theta")
    hf["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config.write_text(json.dumps(hf, indent=2))


def rename_embedding(file: Path, name: str) -> None:
    """Store the tied tensor under another name."""
    tensors = load_file(file)
    tensors[name] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, file, metadata={"format": "pt"})


def save_byte_tokenizer(path: Path) -> None:
    """A tokenizer of 256 bytes and no merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))


def main() -> None:
    """Read the command line and make the models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("names", nargs="*", help="all, where none is named")
    options = parser.parse_args()
    unknown = set(options.names) - set(RECIPES)
    if unknown:
        parser.error(f"no model named {', '.join(sorted(unknown))}; there are {', '.join(RECIPES)}")
    for name in options.names or RECIPES:
        print(make_model(name, options.directory))


if __name__ == "__main__":
    main()

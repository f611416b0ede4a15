"""One model in several formats: GGUF files of the same numbers, each rounded once from float32.

Vectors (norms, biases) are stored as float32, which llama.cpp asks for, after they were rounded like the rest: whoever
casts them back loses nothing.
"""

from pathlib import Path
from typing import Any, NamedTuple

import gguf
import ml_dtypes
import numpy as np

from xplm.checkpoint.opening import open_checkpoint
from xplm.config import DecoderConfig
from xplm.models.decoder import EMBEDDING, head_name, param_specs
from xplm.text.tokenizer import Tokenizer

FORMATS: dict[str, tuple[np.dtype[Any], gguf.LlamaFileType, gguf.GGMLQuantizationType]] = {
    "f32": (np.dtype(np.float32), gguf.LlamaFileType.ALL_F32, gguf.GGMLQuantizationType.F32),
    "f16": (np.dtype(np.float16), gguf.LlamaFileType.MOSTLY_F16, gguf.GGMLQuantizationType.F16),
    "bf16": (
        np.dtype(ml_dtypes.bfloat16),
        gguf.LlamaFileType.MOSTLY_BF16,
        gguf.GGMLQuantizationType.BF16,
    ),
}
OWN_FIELDS = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")
EXCERPT_CHARACTERS = 400


class Sizes(NamedTuple):
    """What a model's costs follow from."""

    read_numbers: int  # weights that a decoded token reads
    hidden_numbers: int  # of them, those of the blocks' matrices
    head_numbers: int  # and those of the head
    cache_numbers: int  # that a token adds to the cache
    layers: int
    attention_width: int  # heads times head_dim
    mlp_width: int
    vocab_size: int
    context: int  # tokens


def measure_sizes(config: DecoderConfig) -> Sizes:
    """The sizes of a configuration."""
    specs, mixer = param_specs(config), config.blocks[0].mixer
    unread = {EMBEDDING} - {head_name(config)}
    return Sizes(
        read_numbers=sum(spec.size for name, spec in specs.items() if name not in unread),
        hidden_numbers=sum(spec.size for spec in specs.values() if spec.is_hidden_matrix),
        head_numbers=specs[head_name(config)].size,
        cache_numbers=sum(n * width for b in config.blocks for n, width in b.mixer.cached),
        layers=config.num_hidden_layers,
        attention_width=mixer.num_heads * mixer.head_dim,
        mlp_width=config.blocks[0].mlp.intermediate_size,
        vocab_size=config.vocab_size,
        context=config.context_length,
    )


def prefill_flop(sizes: Sizes, tokens: int) -> int:
    """Operations of a prompt's matrix products: weights, causal attention, and the head for its last token alone."""
    attention = 2 * sizes.layers * sizes.attention_width * tokens * (tokens + 1)
    return 2 * tokens * sizes.hidden_numbers + attention + 2 * sizes.head_numbers


def write_gguf(source: Path, target: Path, format: str) -> None:
    """A GGUF file with the metadata of another, and its tensors in a plain format.

    Args:
        source: the file.
        target: the file to write.
        format: a key of FORMATS.
    """
    dtype, file_type, kind = FORMATS[format]
    reader = gguf.GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if not name.startswith(OWN_FIELDS):
            value_kind = field.types[0]
            inner = field.types[-1] if value_kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), value_kind, sub_type=inner)
    writer.add_file_type(file_type)
    for tensor in reader.tensors:
        exact = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        rounded = exact.astype(dtype)
        if rounded.ndim == 1:
            writer.add_tensor(tensor.name, rounded.astype(np.float32))
        elif format == "bf16":  # gguf takes it as bytes
            writer.add_tensor(tensor.name, rounded.view(np.uint8), raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, rounded)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def prepare(request: dict[str, Any]) -> dict[str, Any]:
    """Write what is asked for; tokenise the text that prompts are drawn from.

    Args:
        request: "source" and "folder", paths; "formats", of FORMATS; "text", a path; "seed".

    Returns:
        "sizes"; "ids" of the whole text; "excerpt", a piece of it that the seed chose, and "excerpt_ids".
    """
    source, folder = Path(request["source"]), Path(request["folder"])
    for format in request["formats"]:
        write_gguf(source, folder / f"{format}.gguf", format)

    checkpoint = open_checkpoint(source)
    assert checkpoint.gguf_metadata is not None
    tokenizer = Tokenizer.from_gguf(checkpoint.gguf_metadata)
    text = Path(request["text"]).read_text(encoding="utf-8")
    start = np.random.default_rng(request["seed"]).integers(
        0, max(1, len(text) - EXCERPT_CHARACTERS)
    )
    excerpt = text[start : start + EXCERPT_CHARACTERS]
    return {
        "sizes": measure_sizes(checkpoint.config)._asdict(),
        "ids": tokenizer.encode(text),
        "excerpt": excerpt,
        "excerpt_ids": tokenizer.encode(excerpt),
    }

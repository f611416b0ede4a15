"""Every loader of a file that somebody else may have made: a good file, how it is mutated, and how it is read."""

import json
import struct
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from tests.checkpoint.tiny import hf_config, random_tensors, write_directory, write_gguf
from tests.crafted.mutate import (
    NUMBERS,
    TEXTS,
    mutate_bytes,
    mutate_json,
    mutate_lines,
    mutate_toml,
    mutate_value,
    to_json,
)
from tests.text.vocabularies import byte_level_metadata, sentencepiece_metadata
from tests.train.runs import HARD, run_to, start, tiny_recipe
from xplm.backend import load_backend
from xplm.checkpoint.adapter import read_adapter, write_adapter
from xplm.checkpoint.files import write_json
from xplm.checkpoint.gguf_header import GGUFHeader, StoredTensor, read_gguf_header
from xplm.checkpoint.load import load_params
from xplm.checkpoint.opening import open_checkpoint
from xplm.generate.transcript import read_transcript, write_transcript
from xplm.models.decoder import param_specs
from xplm.models.families.config_json import read_config
from xplm.runtime import make_runtime
from xplm.text.tokenizer import Tokenizer
from xplm.text.trainable import train_tokenizer, with_chat_template
from xplm.train.curves import draw_curves
from xplm.train.data.opening import open_dataset
from xplm.train.lora import adapter_specs
from xplm.train.metrics import read_lines
from xplm.train.recipe import load_recipe, make_recipe, to_toml

Mutate = Callable[[bytes, Random], bytes]
TEXT = "Hello, wörld <s> \n\U0001f600"
CONFIG = hf_config(num_hidden_layers=1)


class Loader(NamedTuple):
    """One way in."""

    make: Callable[[Path], dict[Path, Mutate]]  # writes good files; which to mutate, and how
    load: Callable[[Path, Path], Any]  # (folder, the file that was mutated): reads what is there


def mutate_safetensors(content: bytes, rng: Random) -> bytes:
    """Another header of the right length, or damaged bytes, or another length of the file."""
    n = int.from_bytes(content[:8], "little")
    kind = rng.randrange(4)
    if kind == 0:
        return mutate_bytes(content, rng, 8 + n)
    if kind == 1:
        return content[: rng.randrange(len(content))] + bytes(rng.choice([0, 1, 4096]))
    header = mutate_json(content[8 : 8 + n], rng)
    return len(header).to_bytes(8, "little") + header + content[8 + n :]


def mutate_gguf(content: bytes, rng: Random, *, header: GGUFHeader) -> bytes:
    """Other metadata and tensor entries, or damaged bytes of the header."""
    if rng.random() < 0.4:
        return mutate_bytes(content, rng, 6000)
    metadata = mutate_value(header.metadata, rng) if rng.random() < 0.8 else header.metadata
    start = min(t.offset for t in header.tensors.values())
    return to_gguf(metadata, header.tensors, content[start:], rng)


def to_gguf(
    metadata: Any, tensors: Mapping[str, StoredTensor], data: bytes, rng: Random | None = None
) -> bytes:
    """A file, some fields of whose tensor entries are others where a generator is given."""
    start = min(t.offset for t in tensors.values())
    entries = [
        _string(str(key)) + coded
        for key, value in (metadata.items() if isinstance(metadata, dict) else ())
        if (coded := _entry(value)) is not None
    ]
    infos = []
    for name, tensor in tensors.items():
        dims = list(reversed(tensor.shape))
        fields = [len(dims), *dims, int(tensor.kind), tensor.offset - start]
        if rng and rng.random() < 0.05:
            fields[rng.randrange(len(fields))] = rng.choice([n for n in NUMBERS if 0 <= n < 2**32])
        name = rng.choice(TEXTS) if rng and rng.random() < 0.02 else name
        infos.append(_string(name) + struct.pack(f"<I{len(dims)}QIQ", *fields))
    body = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(entries))
    body += b"".join(entries) + b"".join(infos)
    return body + b"\0" * (-len(body) % 32) + data


def _string(text: str) -> bytes:
    data = text.encode(errors="surrogatepass")
    return struct.pack("<Q", len(data)) + data


def _entry(value: Any) -> bytes | None:
    """A value with its type before it; None for what GGUF has no type for."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int) and 0 <= value < 2**32:
        return struct.pack("<II", 4, value)
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return struct.pack("<Iq", 11, value)
    if isinstance(value, float):
        return struct.pack("<Id", 12, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    if isinstance(value, list):
        items = [coded for item in value if (coded := _entry(item)) is not None]
        kind = items[0][:4] if items else struct.pack("<I", 4)
        same = [item[4:] for item in items if item[:4] == kind]
        return struct.pack("<I", 9) + kind + struct.pack("<Q", len(same)) + b"".join(same)
    return None


def make_directory(path: Path) -> dict[Path, Mutate]:
    tensors = random_tensors(CONFIG)
    names = list(tensors)
    shards = [{name: tensors[name] for name in part} for part in (names[:5], names[5:])]
    write_directory(path, CONFIG, shards)
    return {
        path / "config.json": mutate_json,
        path / "model.safetensors.index.json": mutate_json,
        path / "model-00001-of-00002.safetensors": mutate_safetensors,
    }


def load_model(path: Path, changed: Path) -> None:
    checkpoint = open_checkpoint(path)
    params = load_params(checkpoint, make_runtime(load_backend("numpy"), "fp32"))
    assert sum(array.nbytes for array in params.values()) < 2**20


def make_tokenizers(path: Path) -> dict[Path, Mutate]:
    """Four pipelines, each in a folder of its own; together they have most of the library's parts."""
    words = ["<unk>", "<s>", "</s>", *"Helo, wrld\n", "##lo", "He", "\u2581Hello"]
    pieces = [(word, -float(i)) for i, word in enumerate(words)]
    bpe = tokenizers.Tokenizer(
        models.BPE(dict(zip(words, range(99), strict=False)), [("H", "e")], unk_token="<unk>")
    )
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(" ", "_")])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(r"\p{L}+|\s"), "isolated"),
            pre_tokenizers.Digits(),
            pre_tokenizers.ByteLevel(),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    unigram = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    unigram.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Strip()])
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Strip(" ", 1, 0)]
    )
    word_piece = tokenizers.Tokenizer(models.WordPiece(bpe.get_vocab(), unk_token="<unk>"))
    word_piece.normalizer = normalizers.BertNormalizer()
    word_piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    word_piece.decoder = decoders.WordPiece()
    mutated: dict[Path, Mutate] = {}
    for name, pipeline in {"bpe": bpe, "unigram": unigram, "word": word_piece}.items():
        pipeline.add_special_tokens(["<s>", "</s>"])
        pipeline.enable_truncation(64)
        pipeline.enable_padding()
        folder = path / name
        folder.mkdir(parents=True)
        (folder / "tokenizer.json").write_text(pipeline.to_str())
        named = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>"}
        write_json(folder / "tokenizer_config.json", {"chat_template": "{{ messages }}", **named})
        write_json(folder / "special_tokens_map.json", named)
        write_json(folder / "generation_config.json", {"eos_token_id": [2, 1]})
        mutated |= dict.fromkeys(folder.iterdir(), mutate_json)
        mutated[folder / "tokenizer.json"] = mutate_json
    return mutated


def load_tokenizers(path: Path, changed: Path) -> None:
    use(Tokenizer.from_directory(changed.parent))


def use(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    tokenizer.encode(TEXT, add_special_tokens=False, allow_special=False)
    tokenizer.decode(ids)
    tokenizer.decode([0, 1, 2, *tokenizer.eos_token_ids])
    assert tokenizer.vocab_size >= 0
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id) is not None


def make_gguf(path: Path) -> dict[Path, Mutate]:
    path.mkdir()
    byte_level = byte_level_metadata("gpt-2", ["H e", "l l"])
    pieces = sentencepiece_metadata({"He": -1.0, "l": -2.0, "ll": -3.0}, add_bos_token=True)
    phi = {"model_type": "phi", "tie_word_embeddings": False}
    mutated: dict[Path, Mutate] = {}
    for name, metadata, changes in (
        ("gpt2", byte_level, {}),
        ("llama", pieces, {}),
        ("phi", byte_level, phi),
    ):
        config = CONFIG | changes | {"vocab_size": len(metadata["tokenizer.ggml.tokens"])}
        (rope,) = read_config(config).ropes
        plain = write_gguf(
            path / f"{name}.gguf",
            config,
            random_tensors(config),
            extra={"rope_freqs.weight": np.ones(rope.dim // 2, np.float32)},
            is_joined=name == "phi",
        )
        header = read_gguf_header(plain)
        start = min(t.offset for t in header.tensors.values())
        weights = plain.read_bytes()[start:]
        plain.write_bytes(to_gguf(header.metadata | metadata, header.tensors, weights))
        mutated[plain] = partial(mutate_gguf, header=read_gguf_header(plain))
    return mutated


def load_gguf(path: Path, changed: Path) -> None:
    checkpoint = open_checkpoint(changed)
    assert checkpoint.gguf_metadata is not None
    use(Tokenizer.from_gguf(checkpoint.gguf_metadata))
    load_params(checkpoint, make_runtime(load_backend("numpy"), "fp32"))


def make_adapter(path: Path) -> dict[Path, Mutate]:
    config = read_config(CONFIG)
    specs = adapter_specs(param_specs(config), 2)
    path.mkdir()
    tensors = {name: np.ones(spec.shape, np.float32) for name, spec in specs.items()}
    write_adapter(path, config, tensors, base="base")
    return {
        path / "adapter_config.json": mutate_json,
        path / "adapter_model.safetensors": mutate_safetensors,
    }


def load_adapter(path: Path, changed: Path) -> None:
    read_adapter(path, read_config(CONFIG))


def make_recipe_file(path: Path) -> dict[Path, Mutate]:
    path.mkdir()
    tables = {"train": {"steps": 2, "sample_prompts": ["a"]}, "data": {"path": "text.txt"}}
    (path / "recipe.toml").write_text(to_toml(make_recipe(tables)))
    return {path / "recipe.toml": mutate_toml}


def load_recipe_file(path: Path, changed: Path) -> None:
    to_toml(load_recipe(path / "recipe.toml"))


def make_data(path: Path) -> dict[Path, Mutate]:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello </s>"}]
    path.mkdir()
    (path / "text.txt").write_text("Some text, and more.\n" * 40)
    (path / "chat.txt").write_text("User: Hi Assistant: Hello </s>\n" * 8)
    (path / "chat.jsonl").write_bytes((to_json({"messages": chat}) + b"\n") * 8)
    (path / "lines.jsonl").write_bytes(
        (to_json({"text": "Some"}) + b"\n" + to_json("b") + b"\n") * 8
    )
    (path / "chats.json").write_bytes(to_json([{"messages": chat}] * 8))
    (path / "lines.json").write_bytes(to_json(["Some text", {"text": "more"}] * 8))
    mutators: dict[str, Mutate] = {
        ".txt": mutate_bytes, ".jsonl": mutate_lines, ".json": mutate_json,
    }  # fmt: skip
    return {file: mutators[file.suffix] for file in path.iterdir()}


def load_data(path: Path, changed: Path) -> None:
    tokenizer = train_tokenizer("char", ["Some text, and more. User: Assistant: Hello </s>"])
    kinds = ["chat"] if "chat" in changed.name else ["text", "lines"]
    for kind in kinds:
        dataset = open_dataset(
            changed,
            with_chat_template(tokenizer) if kind == "chat" else tokenizer,
            kind=kind, context=8, batch_size=2, n_micro=1, seed=0, held_out=0.1, packed=True,
            cache=path.parent / "tokens",
        )  # fmt: skip
        assert dataset.n_examples > 0


def make_transcript(path: Path) -> dict[Path, Mutate]:
    path.mkdir()
    messages = [{"role": "system", "content": "Be kind."}]
    for i in range(3):
        messages += [{"role": "user", "content": f"{i}"}, {"role": "assistant", "content": "ok"}]
    write_transcript(path / "chat.json", messages)
    return {path / "chat.json": mutate_json}


def load_transcript(path: Path, changed: Path) -> None:
    transcript = read_transcript(path / "chat.json")
    json.dumps(transcript)


def make_run(path: Path) -> dict[Path, Mutate]:
    path.mkdir()
    run = path / "run"
    run_to(start(tiny_recipe(path, **HARD), run))
    newest = sorted((run / "checkpoints").iterdir())[-1]
    return {
        newest / "state.json": mutate_json,
        newest / "state.safetensors": mutate_safetensors,
        newest / "config.json": mutate_json,
        newest / "tokenizer.json": mutate_json,
        run / "recipe.toml": mutate_toml,
        run / "metrics.jsonl": mutate_lines,
        run / "samples.jsonl": mutate_lines,
    }


def load_run(path: Path, changed: Path) -> None:
    trainer = start(tiny_recipe(path, **HARD), path / "run", resume=True)
    trainer._is_drawn = True  # which takes a second
    trainer.close()
    if changed.name == "metrics.jsonl":
        lines = read_lines(changed)
        if changed.stat().st_size % 8 == 0:  # drawing takes a second, too
            draw_curves(path / "curves.png", lines)


LOADERS = {
    "directory": Loader(make_directory, load_model),
    "tokenizer": Loader(make_tokenizers, load_tokenizers),
    "gguf": Loader(make_gguf, load_gguf),
    "adapter": Loader(make_adapter, load_adapter),
    "recipe": Loader(make_recipe_file, load_recipe_file),
    "data": Loader(make_data, load_data),
    "transcript": Loader(make_transcript, load_transcript),
    "run": Loader(make_run, load_run),
}

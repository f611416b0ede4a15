"""The space that some tokenizers put in front of a text, as a setting of the pipeline.

Three parts of a pipeline can add it, and the decoder takes it away again, by Metaspace or by Strip:

    ByteLevel   pre-tokenizer, `add_prefix_space`
    Metaspace   pre-tokenizer and decoder, `prepend_scheme`
    Prepend     normalizer

"add_prefix_space" of tokenizer_config.json, or the default of the class, decides for the classes of transformers that
rebuild their pipeline; for the others tokenizer.json does.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tokenizers

PREFIX_SPACE_CLASSES: Mapping[str, bool | None] = {
    "CodeGenTokenizer": False,
    "CodeLlamaTokenizer": None,
    "CohereTokenizer": False,
    "GPT2Tokenizer": False,
    "GPTNeoXTokenizer": False,
    "GemmaTokenizer": False,
    "LlamaTokenizer": None,
    "Qwen2Tokenizer": False,
    "RobertaTokenizer": False,
}
"""Classes of transformers 5 that put a space there or not by themselves, and whether where no file says.

None: it is then as tokenizer.json has it.
"""

_SPACE = "\u2581"
_SEQUENCES = ("normalizers", "pretokenizers", "decoders")


def has_prefix_space(pipeline: tokenizers.Tokenizer) -> bool | None:
    """True where the pipeline puts a space in front of a text, None where none of its parts could."""
    found = None
    for part in (pipeline.normalizer, pipeline.pre_tokenizer):
        for leaf in _leaves(json.loads(part.__getstate__()) if part else None):
            kind = leaf["type"]
            is_on = (
                kind == "Prepend"
                or leaf.get("add_prefix_space", False)
                or (kind == "Metaspace" and leaf["prepend_scheme"] != "never")
            )
            if is_on:
                return True
            if "add_prefix_space" in leaf or kind == "Metaspace" or leaf.get("content") == _SPACE:
                found = False
    return found


def with_prefix_space(pipeline: tokenizers.Tokenizer, on: bool) -> tokenizers.Tokenizer:
    """A pipeline that does, or does not, put a space in front of a text."""
    state = json.loads(pipeline.to_str())
    prepends = any(leaf.get("content") == _SPACE for leaf in _leaves(state["normalizer"]))
    strips = any(leaf["type"] == "Replace" for leaf in _leaves(state["decoder"]))

    def change(leaf: dict[str, Any]) -> dict[str, Any] | None:
        match leaf["type"]:
            case "ByteLevel" if "add_prefix_space" in leaf:  # a normalizer of that name has none
                return leaf | {"add_prefix_space": on}
            case "Metaspace":
                return leaf | {"prepend_scheme": "first" if on else "never"}
            case "Prepend":
                return None
            case "Strip" if leaf.get("content") == " ":  # a decoder's
                return None
        return leaf

    for name in ("normalizer", "pre_tokenizer", "decoder"):
        state[name] = _map_leaves(change, state[name])
    if on and prepends:
        prepend = {"type": "Prepend", "prepend": _SPACE}
        state["normalizer"] = {"type": "Sequence", "normalizers": [prepend, state["normalizer"]]}
    if on and strips:
        strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        state["decoder"] = {"type": "Sequence", "decoders": [state["decoder"], strip]}
    return tokenizers.Tokenizer.from_str(json.dumps(state))


def _leaves(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The parts of a normalizer or pre-tokenizer that are no sequence."""
    if part is None:
        return
    inner = next((part[key] for key in _SEQUENCES if key in part), None)
    if inner is None:
        yield part
        return
    for item in inner:
        yield from _leaves(item)


def _map_leaves(
    change: Callable[[dict[str, Any]], dict[str, Any] | None], part: dict[str, Any] | None
) -> dict[str, Any] | None:
    """A part with its leaves changed; those that became None are left out."""
    if part is None:
        return None
    for key in _SEQUENCES:
        if key in part:
            changed = (_map_leaves(change, item) for item in part[key])
            return part | {key: [item for item in changed if item is not None]}
    return change(part)

"""JSON-Schema-Test-Suite against the mask: which texts of JSON a constraint lets a reply say, token by token."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import xplm
from judges.listed import FAILED, PASSED, Entry, Outcome
from xplm.errors import RequestError
from xplm.serve.grammar import Grammars
from xplm.text.thoughts import Plain
from xplm.text.tokenizer import Tokenizer

INSIDE = "tests/draft2020-12"


def run(
    suite: Path, model: str, where: Sequence[str], entries: Sequence[Entry], only: str | None
) -> dict[str, Outcome]:
    """Try the schemas; the arguments are as for llama.cpp's, and `entries` are not needed.

    Raises:
        RequestError: the suite is not there.
    """
    folder = suite / INSIDE
    if not folder.is_dir():
        raise RequestError(f"--suite must be a checkout with {INSIDE}; {suite} has none")
    given = dict(zip(where[::2], where[1::2], strict=True))
    lm = xplm.load(model, device=given["--device"], backend=given.get("--backend"))
    ends = [*lm.config.eos_token_id, *lm.tokenizer.eos_token_ids]
    mask = Mask(Grammars(lm.tokenizer, Plain(), ends), lm.tokenizer, ends)
    found: dict[str, Outcome] = {}
    for name, schema, tests in groups(folder):
        if name.startswith(only or ""):
            found |= {
                f"{name} > {test}": outcome for test, outcome in mask.try_group(schema, tests)
            }
    return found


def groups(folder: Path) -> Iterator[tuple[str, Any, list[Any]]]:
    """The groups of tests below a folder: name, schema, tests."""
    for path in sorted(folder.rglob("*.json")):
        for group in json.loads(path.read_text(encoding="utf-8")):
            name = f"{path.relative_to(folder)} > {group['description']}"
            yield name, group["schema"], group["tests"]


class Mask:
    """Constraints over the tokens of a model."""

    def __init__(self, grammars: Grammars, tokenizer: Tokenizer, ends: Sequence[int]) -> None:
        """Take a model's.

        Args:
            grammars: over its tokens.
            tokenizer: the model's.
            ends: tokens that end a reply.
        """
        self._grammars, self._tokenizer, self._end = grammars, tokenizer, ends[0]
        self._logits = np.zeros(tokenizer.vocab_size, np.float32)

    def try_group(self, schema: Any, tests: Sequence[Any]) -> Iterator[tuple[str, Outcome]]:
        """What the mask makes of each instance: it should let those pass that are valid, and no other."""
        for test in tests:
            try:
                is_let_pass = self._lets_pass(schema, json_text(test["data"]))
            except RequestError as error:
                yield test["description"], Outcome(FAILED, f"refused: {error}")
                continue
            wrong = "too lax" if is_let_pass else "too strict"
            is_right = is_let_pass == test["valid"]
            yield test["description"], Outcome(PASSED) if is_right else Outcome(FAILED, wrong)

    def _lets_pass(self, schema: Any, text: str) -> bool:
        """Whether a reply may be a text, and end there.

        Raises:
            RequestError: the schema is refused, or cannot be met.
        """
        constraint = self._grammars.json_schema(schema)
        for token in self._tokenizer.encode(text, add_special_tokens=False):
            if constraint.is_complete or np.isneginf(constraint.mask(self._logits)[token]):
                return False
            constraint.push(token)
        return constraint.is_complete or bool(np.isfinite(constraint.mask(self._logits)[self._end]))


def json_text(value: Any) -> str:
    """JSON with its characters as they are, but for halves of surrogate pairs."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text

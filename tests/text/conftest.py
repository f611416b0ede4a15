"""The tokenizers of the two models that the project tests with."""

from typing import Any

import pytest

from tests.paths import STORY, smollm2_gguf
from tests.text.vocabularies import read_gguf
from xplm.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def smollm2_metadata() -> dict[str, Any]:
    return read_gguf(smollm2_gguf())


@pytest.fixture(scope="session")
def smollm2(smollm2_metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_gguf(smollm2_metadata)


@pytest.fixture(scope="session")
def story() -> Tokenizer:
    if not STORY.exists():
        pytest.skip(f"needs the story model in {STORY}")
    return Tokenizer.from_directory(STORY)

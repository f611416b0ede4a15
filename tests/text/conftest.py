"""The tokenizers of the two models that the project tests with."""

from typing import Any

import pytest

from tests.paths import STORY, smollm2_gguf
from xplm.checkpoint.gguf_header import read_gguf_header
from xplm.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def smollm2_metadata() -> dict[str, Any]:
    return read_gguf_header(smollm2_gguf()).metadata


@pytest.fixture(scope="session")
def smollm2(smollm2_metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_gguf(smollm2_metadata)


@pytest.fixture(scope="session")
def story() -> Tokenizer:
    if not STORY.exists():
        pytest.skip(f"needs the story model in {STORY}")
    return Tokenizer.from_directory(STORY)

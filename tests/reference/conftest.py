"""transformers as the oracle; every test here skips, with the reason, where it is not installed."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xplm
from xplm.language_model import LanguageModel

REASON = 'needs torch and transformers: pip install ".[reference]"'


@pytest.fixture(scope="session")
def torch() -> Any:
    return pytest.importorskip("torch", reason=REASON)


@pytest.fixture(scope="session")
def transformers(torch: Any) -> Any:
    module = pytest.importorskip("transformers", reason=REASON)
    module.utils.logging.disable_progress_bar()
    return module


class Oracle:
    """A transformers model in float32."""

    def __init__(self, torch: Any, model: Any) -> None:
        self.torch, self.model = torch, model.eval()

    def logits(self, ids: Any) -> np.ndarray:
        """(T,) ids  ->  (T, V) float32"""
        with self.torch.no_grad():
            return self.model(self.torch.tensor([list(ids)])).logits[0].numpy()

    def greedy(self, ids: Any, max_new_tokens: int) -> list[int]:
        """The ids after a prompt, up to and without an end of sequence."""
        with self.torch.no_grad():
            out = self.model.generate(
                self.torch.tensor([list(ids)]),
                attention_mask=self.torch.ones(1, len(ids), dtype=self.torch.long),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        return out[0, len(ids) :].tolist()


@pytest.fixture(scope="session")
def load_oracle(torch: Any, transformers: Any) -> Callable[..., Oracle]:
    """load_oracle(path, **options) of transformers' from_pretrained."""

    def load(path: Path, **options: Any) -> Oracle:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of others' code
            model = transformers.AutoModelForCausalLM.from_pretrained(
                str(path), dtype=torch.float32, **options
            )
        return Oracle(torch, model)

    return load


@pytest.fixture(scope="module")
def lm(path: Path) -> LanguageModel:
    """xplm's model of the GGUF file that is the module's `path`."""
    return xplm.load(path)


@pytest.fixture(scope="module")
def oracle(path: Path, load_oracle: Callable[..., Oracle]) -> Oracle:
    """transformers' model of the same file."""
    return load_oracle(path.parent, gguf_file=path.name)

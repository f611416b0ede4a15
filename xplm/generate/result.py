"""What a generation hands back."""

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]
"""stop: a stop text or id, or the model's own end of sequence. length: max_new_tokens, or the context is full."""


@dataclass(frozen=True)
class Timings:
    """Where the time of a generation went. Rows of a batch share one, which counts all of them."""

    prefill_tokens: int  # prompt tokens computed; those a cache already held are not counted
    prefill_seconds: float  # until the first new token is chosen
    decode_tokens: int  # new tokens after the first of each row
    decode_seconds: float
    compilations: int = 0  # of kernels, that this time went to as well

    @property
    def prefill_tokens_per_s(self) -> float:
        """Prompt tokens a second."""
        return self.prefill_tokens / self.prefill_seconds

    @property
    def decode_tokens_per_s(self) -> float:
        """New tokens a second; 0 where there was one token only."""
        return self.decode_tokens / self.decode_seconds if self.decode_tokens else 0.0

    def as_dict(self) -> dict[str, float]:
        """Every figure by name, for JSON."""
        return {
            f"{phase}_{what}": getattr(self, f"{phase}_{what}")
            for phase in ("prefill", "decode")
            for what in ("tokens", "seconds", "tokens_per_s")
        } | {"compilations": self.compilations}


@dataclass(frozen=True)
class Generation:
    """One finished reply."""

    text: str  # up to what stopped it; special tokens are left out
    token_ids: list[int]  # every id generated, with the one that stopped it
    logprobs: list[
        float
    ]  # of each id, under the model's own distribution before any sampling transform
    finish_reason: FinishReason
    prompt_tokens: int
    timings: Timings

"""What a generation hands back."""

from collections.abc import Sequence
from dataclasses import dataclass
from reprlib import Repr
from typing import Literal

from xplm.generate.sampling import Ranked
from xplm.text.reply_parts import Call

FinishReason = Literal["stop", "length"]
"""stop: a stop text or id, or the model's own end of sequence. length: max_new_tokens, or the context is full."""

SHOWN_CHARS = 72
"""Of a text, in the repr of a reply."""


@dataclass(frozen=True)
class Timings:
    """Where the time of a generation went. Rows of a batch share one, which counts all of them."""

    prefill_tokens: int
    """Prompt tokens computed; those a cache already held are not counted."""
    prefill_seconds: float
    """Until the first new token is chosen."""
    decode_tokens: int
    """New tokens after the first of each row."""
    decode_seconds: float
    """From then on."""
    compilations: int = 0
    """Kernels that this time was spent on compiling, too."""
    reused_tokens: int = 0
    """Prompt tokens whose keys and values were there already."""

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
        } | {"reused_tokens": self.reused_tokens, "compilations": self.compilations}


@dataclass(frozen=True, repr=False)
class Generation:
    """One finished reply."""

    text: str
    """Up to what stopped it; special tokens are left out, and in a chat thoughts and calls."""
    token_ids: list[int]
    """Every id generated, with the one that stopped it."""
    logprobs: list[float]
    """Of each id, under the model's own distribution before any sampling transform."""
    finish_reason: FinishReason
    """"stop" or "length"."""
    prompt_tokens: int
    """Tokens of the prompt."""
    timings: Timings
    """Where the time went."""
    reasoning: str = ""
    """What the model thought before its answer, in a chat whose template or tokens mark thoughts."""
    calls: Sequence[Call] = ()
    """What it sends to tools, in a chat whose tokens mark recipients."""
    top_logprobs: Sequence[Ranked] = ()
    """Of each id the likeliest tokens in its place with their log-probabilities, if `top_logprobs` asks for them."""

    def __repr__(self) -> str:
        """The text's beginning and end, and why it ends."""
        n = len(self.token_ids)
        cut = Repr()
        cut.maxstring = SHOWN_CHARS
        return (
            f"Generation({cut.repr(self.text)}, {n} tokens, finish_reason={self.finish_reason!r})"
        )

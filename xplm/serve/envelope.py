"""What responses have in common: id, time, model and usage around the choices."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from xplm.generate.result import Generation


def draw_token() -> str:
    """What tells a response from others."""
    return secrets.token_hex(12)


@dataclass(frozen=True)
class Envelope:
    """Of one response, or of the chunks of one."""

    kind: str  # "chat.completion" or "text_completion"
    prefix: str  # of the id
    model: str
    fingerprint: str
    seed: int
    n_choices: int  # to each prompt
    include_usage: bool
    warnings: list[str]
    created: int = field(default_factory=lambda: int(time.time()))
    token: str = field(default_factory=draw_token)

    def whole(self, choices: list[Any], generations: Sequence[Generation]) -> dict[str, Any]:
        """The response that is no stream."""
        return (
            self._head(self.kind)
            | {"choices": choices, "usage": self.usage(generations), "seed": self.seed}
            | self._warned()
            | {"timings": timings(generations)}
        )

    def chunk(self, choices: list[Any], *, is_first: bool = False) -> dict[str, Any]:
        """A part of a stream."""
        usage = {"usage": None} if self.include_usage else {}
        first = {"seed": self.seed} | self._warned() if is_first else {}
        return self._head(self._chunk_kind) | {"choices": choices} | usage | first

    def last_chunks(
        self, generations: Sequence[Generation], added: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """The part of a stream that says what all of it took, where that is asked for, and what else is added."""
        counts = {"usage": self.usage(generations), "timings": timings(generations)}
        said = (counts if self.include_usage else {}) | added
        return [self._head(self._chunk_kind) | {"choices": []} | said] if said else []

    def usage(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """Tokens of a response; a prompt counts once, however many choices it has."""
        firsts = generations[:: self.n_choices]
        prompt = sum(generation.prompt_tokens for generation in firsts)
        completion = sum(len(generation.token_ids) for generation in generations)
        cached = sum(generation.timings.reused_tokens for generation in firsts)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.kind == "chat.completion" else self.kind

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"{self.prefix}-{self.token}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def _warned(self) -> dict[str, Any]:
        return {"warnings": self.warnings} if self.warnings else {}


def timings(generations: Sequence[Generation]) -> dict[str, Any]:
    """Where the time of a response went, with llama.cpp's names; of several choices the first's."""
    found = generations[0].timings
    return {
        "cache_n": found.reused_tokens,
        "prompt_n": found.prefill_tokens,
        "prompt_ms": 1000 * found.prefill_seconds,
        "prompt_per_second": found.prefill_tokens_per_s,
        "predicted_n": len(generations[0].token_ids),
        "predicted_ms": 1000 * found.decode_seconds,
        "predicted_per_second": found.decode_tokens_per_s,
    }

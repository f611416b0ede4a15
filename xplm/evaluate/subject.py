"""The model that an evaluation asks, wherever it runs: the interface, and the values that pass through it.

A likelihood is a sum of log-probabilities in the order of the tokens, made here for every subject, so that equal
log-probabilities give equal bits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from xplm.errors import RequestError
from xplm.generate.options import SamplingOptions

SCORING = "scoring"
"""Progress, counted in requests."""

ANSWERING = "answering"
"""Progress, counted in requests."""

ENCODING = "tokenising"
"""Progress, counted in texts."""


@dataclass(frozen=True)
class Asking:
    """How tasks are asked."""

    num_fewshot: int | None = None  # examples in front of each document; None: as the task says
    limit: int | None = None  # documents of a task; None: all
    is_chat: bool = False  # prompts are messages, in the model's chat template
    system: str | None = None  # a system message, or what stands in front of a prompt
    seed: int = 0  # of sampled answers


class Conversation(NamedTuple):
    """Messages that the model is to answer in its chat template."""

    turns: tuple[tuple[str, str], ...]  # role and content, oldest first

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages as templates take them."""
        return [{"role": role, "content": content} for role, content in self.turns]


Text: TypeAlias = str | Conversation


class Scored(NamedTuple):
    """Tokens to score."""

    ids: list[int]  # with those before them
    begin: int  # the first to score, at least 1


class Likelihood(NamedTuple):
    """The log-probability of tokens, and whether each was the likeliest in its place."""

    logprob: float
    is_greedy: bool


class Question(NamedTuple):
    """A prompt to answer."""

    prompt: list[int] | Conversation
    options: SamplingOptions


@dataclass
class Tally:
    """What an evaluation has taken so far."""

    prompt_tokens: int = 0
    """Of all prompts."""
    reused_tokens: int = 0
    """Of these, tokens whose keys and values were there already."""
    new_tokens: int = 0
    """Of answers."""
    seconds: float = 0.0
    """With requests under way."""

    @property
    def tokens_per_s(self) -> float:
        """Prompt tokens and new tokens a second; 0 before the first request."""
        total = self.prompt_tokens + self.new_tokens
        return total / self.seconds if self.seconds > 0 else 0.0


class Subject(Protocol):
    """A model to evaluate."""

    name: str
    tally: Tally

    @property
    def context(self) -> int:
        """The most tokens of a sequence."""

    @property
    def facts(self) -> dict[str, Any]:
        """How it computes: "policy", "backend", "is_invariant", "stored_as"."""

    @property
    def prefix_id(self) -> int:
        """The token to stand before a text with nothing before it: BOS, or else EOS."""

    def encode(self, texts: Sequence[Text], *, add_special_tokens: bool = True) -> list[list[int]]:
        """Token ids; of a conversation, those that it is answered from."""

    def score(self, asked: Sequence[Scored]) -> list[Likelihood]:
        """The likelihood of tokens, given those before them."""

    def answer(self, asked: Sequence[Question]) -> list[str]:
        """The answers to prompts."""


def prefix_token(special_tokens: Mapping[str, Any], whose: str) -> str:
    """The token to stand before a text with nothing before it: BOS, or else EOS.

    Args:
        special_tokens: by name, as tokenizers have them.
        whose: they are, for the message.

    Raises:
        RequestError: there is neither.
    """
    token = special_tokens.get("bos_token") or special_tokens.get("eos_token")
    if token is None:
        raise RequestError(
            f"a text with nothing before it needs a tokenizer with a BOS or EOS token; {whose} has neither"
        )
    return str(token)


def make_likelihood(logprobs: Sequence[float], best: Sequence[float]) -> Likelihood:
    """The likelihood of tokens.

    Args:
        logprobs: of each.
        best: of the likeliest token in the place of each.
    """
    is_greedy = all(own >= top for own, top in zip(logprobs, best, strict=True))
    return Likelihood(float(sum(logprobs)), is_greedy)

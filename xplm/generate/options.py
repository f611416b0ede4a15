"""What a caller may ask of a generation, validated once, at the border."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import inf
from numbers import Integral, Real
from typing import Any, TypedDict

from xplm.errors import RequestError, did_you_mean
from xplm.text.faults import BYTES

MOST_TOP_LOGPROBS = 20


@dataclass(frozen=True)
class SamplingOptions:
    """How to choose tokens, and when to stop. Names and meanings follow Hugging Face.

    The defaults are greedy decoding with every filter off.

    Raises:
        RequestError: a value is of the wrong type or out of its range.
    """

    max_new_tokens: int = 256
    """Tokens, at least 1; the model's context may end a reply earlier."""
    temperature: float = 0.0
    """Divides the logits; 0 is greedy."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of tokens with at least this probability, in (0, 1]."""
    min_p: float = 0.0
    """Keep tokens at least this share as likely as the likeliest, in [0, 1]."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that already occurred, in the prompt too, less likely."""
    presence_penalty: float = 0.0
    """Is taken from the logit of each token that the reply already has, in [-2, 2]."""
    frequency_penalty: float = 0.0
    """Is taken from it once for each time that the reply has the token, in [-2, 2]."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Pairs of a token id and what is added to its logit, in [-100, 100]; a mapping stands for its pairs."""
    top_logprobs: int = 0
    """Report the log-probabilities of so many of the likeliest tokens at each place, at most 20."""
    stop: tuple[str, ...] = ()
    """Texts that end a reply; they are not part of it."""
    stop_token_ids: tuple[int, ...] = ()
    """Token ids that end a reply, besides the model's own."""
    ignore_eos: bool = False
    """Go on past the model's own end of sequence."""
    num_beams: int = 1
    """Above 1 is beam search."""
    length_penalty: float = 1.0
    """Beam search: exponent of the length that a score is divided by, within 10 of 0."""
    seed: int = 0
    """Names the stream of random coins, in [0, 2**64)."""

    def __post_init__(self) -> None:
        """Check every field; a single stop text or id may stand for a tuple of one."""
        self._make_tuple("stop", str, "a text or a list of texts")
        self._make_tuple("stop_token_ids", Integral, "an integer or a list of integers")
        self._make_pairs()

        self._require_number("max_new_tokens", Integral, 1, inf)
        self._require_number("temperature", Real, 0, inf)
        self._require_number("top_k", Integral, 0, inf)
        self._require_number("top_p", Real, 0, 1, exclude_low=True)
        self._require_number("min_p", Real, 0, 1)
        self._require_number("repetition_penalty", Real, 0, inf, exclude_low=True)
        self._require_number("presence_penalty", Real, -2, 2)
        self._require_number("frequency_penalty", Real, -2, 2)
        self._require_number("top_logprobs", Integral, 0, MOST_TOP_LOGPROBS)
        self._require_number("num_beams", Integral, 1, 1024)
        self._require_number("length_penalty", Real, -10, 10)
        self._require_number("seed", Integral, 0, 2**64 - 1)

        if not all(isinstance(text, str) and text for text in self.stop):
            raise RequestError(f"every stop text must be a string, not empty; got {self.stop!r}")
        if not all(isinstance(token, Integral) for token in self.stop_token_ids):
            raise RequestError(f"stop_token_ids must be integers; got {self.stop_token_ids!r}")
        if not isinstance(self.ignore_eos, bool):
            raise RequestError(f"ignore_eos must be True or False; got {self.ignore_eos!r}")
        if self.num_beams > 1 and self.temperature > 0:
            raise RequestError(
                f"beam search does not sample, so num_beams={self.num_beams} needs temperature 0; "
                f"got temperature {self.temperature}"
            )
        if self.num_beams > 1 and self.top_logprobs > 0:
            raise RequestError(
                f"beam search reports no top_logprobs, so num_beams={self.num_beams} needs 0; "
                f"got {self.top_logprobs}"
            )

    def _make_pairs(self) -> None:
        """Check `logit_bias`; the last of several pairs with one id counts."""
        value = self.logit_bias
        pairs = value.items() if isinstance(value, Mapping) else value
        try:
            biases = {int(token): float(bias) for token, bias in pairs if _is_bias(token, bias)}
            is_good = len(biases) == len(pairs)
        except (TypeError, ValueError):
            is_good = False
        if not is_good:
            raise RequestError(
                "logit_bias must map token ids to numbers, at least -100 and at most 100; "
                f"got {value!r:.100}"
            )
        object.__setattr__(self, "logit_bias", tuple(biases.items()))

    def _make_tuple(self, name: str, kind: type, noun: str) -> None:
        value = getattr(self, name)
        values = (value,) if isinstance(value, kind) else value
        if not isinstance(values, Sequence) or isinstance(values, BYTES):
            raise RequestError(f"{name} must be {noun}; got {value!r}")
        object.__setattr__(self, name, tuple(values))

    def _require_number(
        self, name: str, kind: type, low: float, high: float, *, exclude_low: bool = False
    ) -> None:
        value = getattr(self, name)
        is_number = isinstance(value, kind) and not isinstance(value, bool) and value != inf
        if is_number and low <= value <= high and not (exclude_low and value == low):
            return

        noun = "an integer" if kind is Integral else "a number"
        above = "above" if exclude_low else "at least"
        below = "" if high == inf else f" and at most {high}"
        raise RequestError(f"{name} must be {noun}, {above} {low}{below}; got {value!r}")


class RowKeywords(TypedDict, total=False):
    """The fields of SamplingOptions but `seed`, as keywords."""

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float] | Sequence[tuple[int, float]]
    top_logprobs: int
    stop: str | Sequence[str]
    stop_token_ids: int | Sequence[int]
    ignore_eos: bool
    num_beams: int
    length_penalty: float


class SamplingKeywords(RowKeywords, total=False):
    """The fields of SamplingOptions, as keywords."""

    seed: int


class BatchKeywords(RowKeywords, total=False):
    """The fields of SamplingOptions, as keywords of several prompts."""

    seed: int | Sequence[int]
    """One for all, or one for each."""


def is_integer(value: object) -> bool:
    """Whether a value is an integer, Python's or NumPy's; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_bias(token: object, bias: object) -> bool:
    is_number = isinstance(bias, Real) and not isinstance(bias, bool)
    return is_integer(token) and is_number and -100 <= bias <= 100  # type: ignore[operator]


def make_options(options: Mapping[str, Any]) -> SamplingOptions:
    """Options from keyword arguments.

    Args:
        options: any of the fields of SamplingOptions, by name.

    Raises:
        RequestError: an unknown name, or a value out of range.
    """
    known = [field.name for field in fields(SamplingOptions)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise RequestError(
            f"sampling options are {', '.join(known)}; got unknown {', '.join(unknown)}"
            f"{did_you_mean(unknown, known)}"
        )
    return SamplingOptions(**options)

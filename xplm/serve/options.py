"""What a request may ask of its replies, with the names of OpenAI, and of vLLM beyond these."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from xplm.checkpoint.sampling import ModelSampling
from xplm.errors import RequestError
from xplm.generate.options import SamplingOptions, make_options
from xplm.serve.errors import ApiError

SEED_BITS = 32  # of a drawn seed
MOST_CHOICES = 128

MOST_STOPS, MOST_STOP_CHARS = 32, 256
"""Stop texts of a request, and characters of one: each new token is held against all of them."""

MOST_BIASES = 1024
"""Tokens of `logit_bias`."""

UNSUPPORTED: Mapping[str, Any] = {
    "best_of": 1,
    "guided_json": None,
    "guided_regex": None,
    "guided_choice": None,
    "guided_grammar": None,
    "structured_outputs": None,
    "grammar": None,
    "json_schema": None,
    "use_beam_search": False,
    "length_penalty": 1,
    "min_tokens": 0,
    "bad_words": [],
    "allowed_token_ids": None,
    "prompt_logprobs": None,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "include_stop_str_in_output": False,
    "truncate_prompt_tokens": None,
}
"""Fields of both kinds of request that are known and not supported, and what changes nothing, beside null."""


class StreamOptions(msgspec.Struct):
    """Of a stream."""

    include_usage: bool | None = None


class Sampling(msgspec.Struct, kw_only=True):
    """Fields of both kinds of request."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    seed: int | None = None
    n: int | None = None
    response_format: dict[str, Any] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def n_choices(self) -> int:
        """Replies to each prompt.

        Raises:
            ApiError: n is out of range.
        """
        n = 1 if self.n is None else self.n
        if not 1 <= n <= MOST_CHOICES:
            raise ApiError(f"n must be at least 1 and at most {MOST_CHOICES}; got {n}", param="n")
        return n

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with what it took."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


def draw_seed() -> int:
    """A seed for a request that names none."""
    return secrets.randbits(SEED_BITS)


def sampling_options(
    fields: Sampling, model: ModelSampling, *, seed: int, max_tokens: int, top_logprobs: int = 0
) -> SamplingOptions:
    """How to choose tokens, for one choice.

    Args:
        fields: of the request.
        model: the model's own values, which hold where the request has none; without either, temperature is 1.
        seed: of the choice.
        max_tokens: where the request says nothing.
        top_logprobs: of how many of the likeliest tokens to report the log-probabilities.

    Raises:
        ApiError: a value is out of range.
    """
    _require_few(fields)
    given: dict[str, Any] = {
        "max_new_tokens": max_tokens if fields.max_tokens is None else fields.max_tokens,
        "temperature": fields.temperature,
        "top_p": fields.top_p,
        "top_k": 0 if fields.top_k == -1 else fields.top_k,
        "min_p": fields.min_p,
        "repetition_penalty": fields.repetition_penalty,
        "presence_penalty": fields.presence_penalty,
        "frequency_penalty": fields.frequency_penalty,
        "logit_bias": fields.logit_bias,
        "top_logprobs": top_logprobs,
        "stop_token_ids": fields.stop_token_ids,
        "ignore_eos": fields.ignore_eos,
        "seed": seed,
    }
    own = {"temperature": 1.0, **model.options, "stop": _texts(model.options.get("stop", ()))}
    own["stop"] += _texts(fields.stop or ())
    own |= {name: value for name, value in given.items() if value is not None}
    try:
        return make_options(own)
    except RequestError as error:  # begins with the option's name
        message = str(error).replace("max_new_tokens", "max_tokens")
        name = message.split()[0]
        raise ApiError(message, param=name if hasattr(fields, name) else None) from None


def _require_few(fields: Sampling) -> None:
    """Refuse what would take too long at each token.

    Raises:
        ApiError: there are too many stop texts or biases.
    """
    stop = _texts(fields.stop or ())
    if len(stop) > MOST_STOPS or any(len(text) > MOST_STOP_CHARS for text in stop):
        raise ApiError(
            f"stop may have {MOST_STOPS} texts of {MOST_STOP_CHARS} characters; give fewer",
            param="stop",
        )
    if len(fields.logit_bias or ()) > MOST_BIASES:
        raise ApiError(f"logit_bias may have {MOST_BIASES} tokens; give fewer", param="logit_bias")


def _texts(stop: str | Sequence[str]) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else tuple(stop)

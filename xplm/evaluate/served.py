"""A model behind a server as the subject of an evaluation: a client of `xplm serve`.

Prompts go as token ids, and are scored by `echo` with `logprobs`. JSON has every digit of a log-probability, so what
the server computes is what is evaluated.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import httpx

from xplm.errors import ContextError, RequestError, one_line
from xplm.evaluate.subject import (
    ANSWERING,
    ENCODING,
    SCORING,
    Conversation,
    Likelihood,
    Question,
    Scored,
    Tally,
    Text,
    make_likelihood,
    prefix_token,
)
from xplm.generate.options import SamplingOptions
from xplm.progress import OnProgress, unseen

T = TypeVar("T")

MOST_OPEN = 64
"""Requests under way: enough that the server has always one to begin."""

SECONDS = 10.0
"""To connect, and for answers that are there at once."""

REPLY_TIMEOUT = httpx.Timeout(None, connect=SECONDS)
"""The server has a limit of its own for a reply."""

BUSY, BUSY_SECONDS = 429, 1.0
COMPLETIONS, CHAT, TOKENIZE = "/v1/completions", "/v1/chat/completions", "/tokenize"


class _Call(NamedTuple):
    path: str
    body: dict[str, Any]


class ServedModel:
    """A model behind a server."""

    def __init__(
        self, address: str, key: str | None = None, *, progress: OnProgress = unseen
    ) -> None:
        """Ask a server what it serves.

        Args:
            address: its URL, with "/v1" at the end or without.
            key: an API key; None: none is sent.
            progress: is given the requests done.

        Raises:
            RequestError: there is no such server, or it refuses.
        """
        self._address = address.rstrip("/").removesuffix("/v1")
        self._client: dict[str, Any] = {
            "headers": {} if key is None else {"authorization": f"Bearer {key}"},
            "limits": httpx.Limits(max_connections=MOST_OPEN),
            "timeout": REPLY_TIMEOUT,
            "trust_env": False,
        }
        self._progress = progress
        self.tally = Tally()
        self._served = self._get("/v1/models", lambda answer: dict(answer["data"][0]))
        self.name = str(self._served["id"])

    @property
    def context(self) -> int:
        """The most tokens of a sequence."""
        return int(self._served["max_model_len"])

    @property
    def facts(self) -> dict[str, Any]:
        """How it computes, as far as the server says."""
        names = ("policy", "backend", "is_invariant", "stored_as")
        return {name: self._served.get(name) for name in names}

    @cached_property
    def prefix_id(self) -> int:
        """BOS, or else EOS.

        Raises:
            RequestError: the tokenizer has neither.
        """
        token = prefix_token(self._get("/tokenizer_info", dict), "the server's")
        return self.encode([token], add_special_tokens=False)[0][0]

    def encode(self, texts: Sequence[Text], *, add_special_tokens: bool = True) -> list[list[int]]:
        """Token ids; of a conversation, those that it is answered from.

        Raises:
            RequestError: the server refuses.
        """
        calls = (_Call(TOKENIZE, _text_fields(text, add_special_tokens)) for text in texts)
        return self._ask(ENCODING, calls, len(texts), lambda _, answer: list(answer["tokens"]))

    def score(self, asked: Sequence[Scored]) -> list[Likelihood]:
        """The likelihood of tokens, given those before them.

        Raises:
            RequestError: the server refuses.
        """
        fields = {"max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1, "seed": 0}
        calls = (_Call(COMPLETIONS, {"prompt": ids, **fields}) for ids, _ in asked)

        def read(place: int, answer: Any) -> Likelihood:
            self._count(answer["usage"], n_new=0)
            ids, begin = asked[place]
            found, scored = answer["choices"][0]["logprobs"], slice(begin, len(ids))
            best = [max(top.values()) for top in found["top_logprobs"][scored]]
            return make_likelihood(found["token_logprobs"][scored], best)

        return self._timed(SCORING, calls, len(asked), read)

    def answer(self, asked: Sequence[Question]) -> list[str]:
        """The answers to prompts.

        Raises:
            RequestError: the server refuses.
        """

        def read(place: int, answer: Any) -> str:
            self._count(answer["usage"], n_new=answer["usage"]["completion_tokens"])
            choice = answer["choices"][0]
            return str(choice["text"] if "text" in choice else choice["message"]["content"] or "")

        return self._timed(ANSWERING, map(_question_call, asked), len(asked), read)

    def _count(self, usage: dict[str, Any], n_new: int) -> None:
        self.tally.prompt_tokens += usage["prompt_tokens"]
        self.tally.reused_tokens += usage["prompt_tokens_details"]["cached_tokens"]
        self.tally.new_tokens += n_new

    def _timed(
        self, what: str, calls: Iterable[_Call], count: int, read: Callable[[int, Any], T]
    ) -> list[T]:
        begun = perf_counter()
        try:
            return self._ask(what, calls, count, read)
        finally:
            self.tally.seconds += perf_counter() - begun

    def _ask(
        self, what: str, calls: Iterable[_Call], count: int, read: Callable[[int, Any], T]
    ) -> list[T]:
        """What is read of the answer to each call, in their order; `read` gets the call's place too."""
        self._progress(what, 0, count)
        found: dict[int, T] = {}
        coming = enumerate(calls)

        async def work(client: httpx.AsyncClient) -> None:
            for place, call in coming:
                answer = await self._post(client, call)
                found[place] = _read(lambda: read(place, answer), call.path)  # noqa: B023, called here
                self._progress(what, len(found), count)

        async def work_together() -> None:
            async with httpx.AsyncClient(**self._client) as client, asyncio.TaskGroup() as group:
                for _ in range(min(MOST_OPEN, count)):
                    group.create_task(work(client))

        try:
            asyncio.run(work_together())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [found[place] for place in range(count)]

    async def _post(self, client: httpx.AsyncClient, call: _Call) -> Any:
        """The answer, once the server has room for the request."""
        while True:
            try:
                response = await client.post(self._address + call.path, json=call.body)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise self._lost(error) from error
            if response.status_code != BUSY:
                return self._body(response)
            await asyncio.sleep(BUSY_SECONDS)

    def _get(self, path: str, read: Callable[[Any], T]) -> T:
        try:
            with httpx.Client(**self._client) as client:
                response = client.get(self._address + path, timeout=SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._lost(error) from error
        return _read(lambda: read(self._body(response)), path)

    def _body(self, response: httpx.Response) -> Any:
        """The JSON of an answer.

        Raises:
            RequestError: it is a refusal, or no JSON.
        """
        try:
            body = response.json()
        except ValueError:
            body = None
        if response.is_success and body is not None:
            return body
        said = one_line(response.text)[:400]
        if isinstance(body, dict) and isinstance(body.get("error"), dict):
            error = body["error"]
            said = str(error.get("message", said))
            if error.get("code") == "context_length_exceeded":
                raise ContextError(said)
        raise RequestError(
            f"the server at {self._address} refused ({response.status_code}): {said}"
        )

    def _lost(self, error: Exception) -> RequestError:
        return RequestError(
            f"a server must answer at {self._address}; got {type(error).__name__}: {error}; start one with xplm serve"
        )


def _read(read: Callable[[], T], path: str) -> T:
    """What is read of an answer.

    Raises:
        RequestError: the answer has another form.
    """
    try:
        return read()
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(
            f"a server must answer {path} as xplm serve does; got {type(error).__name__}: {error}"
        ) from error


def _text_fields(text: Text, add_special_tokens: bool) -> dict[str, Any]:
    if isinstance(text, Conversation):
        return {"messages": text.messages}
    return {"prompt": text, "add_special_tokens": add_special_tokens}


def _question_call(question: Question) -> _Call:
    fields = _option_fields(question.options)
    if isinstance(question.prompt, Conversation):
        return _Call(CHAT, {"messages": question.prompt.messages, **fields})
    return _Call(COMPLETIONS, {"prompt": question.prompt, **fields})


def _option_fields(options: SamplingOptions) -> dict[str, Any]:
    """All that the server would fill in from the model's own values otherwise."""
    return {
        "max_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p,
        "repetition_penalty": options.repetition_penalty,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "seed": options.seed,
        "stop": list(options.stop),
    }

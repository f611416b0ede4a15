"""`/v1/completions`: texts continued."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from xplm.generate.options import MOST_TOP_LOGPROBS
from xplm.generate.reply import Reply, start_reply
from xplm.generate.request import Request
from xplm.generate.result import Generation
from xplm.generate.sampling import Ranked
from xplm.serve.constrain import NO_TOOLS, Format, read_schema
from xplm.serve.envelope import Envelope
from xplm.serve.errors import ApiError
from xplm.serve.logprobs import TokenTexts
from xplm.serve.options import UNSUPPORTED, Sampling, draw_seed, sampling_options
from xplm.serve.prompts import Spelled, prompt_ids, split_prompts
from xplm.serve.respond import respond
from xplm.serve.serving import Serving, as_request, read_request, serving_of
from xplm.serve.worker import Delta

DEFAULT_TOKENS = 16
"""OpenAI's, of a reply whose request says nothing."""

UNSUPPORTED_HERE: Mapping[str, Any] = {**UNSUPPORTED, "suffix": ""}


class CompletionRequest(Sampling, kw_only=True):
    """The body."""

    prompt: Spelled
    echo: bool | None = None
    logprobs: int | None = None


@dataclass
class CompletionForm:
    """Completions as OpenAI writes them."""

    envelope: Envelope
    texts: TokenTexts
    echoes: list[str]  # in front of each choice's text
    requests: Sequence[Request]
    has_logprobs: bool

    def __post_init__(self) -> None:
        """No text is out yet."""
        self._offsets = [0] * len(self.requests)
        self._unsent = set(range(len(self.requests)))  # choices whose echo is not out

    def first(self) -> list[dict[str, Any]]:
        """A chunk without text: what is echoed comes with the first token, when its log-probabilities are known."""
        choices = [self._choice(index, "") for index in range(len(self.requests))]
        return [self.envelope.chunk(choices, is_first=True)]

    def chunks(self, delta: Delta) -> list[dict[str, Any]]:
        """One with the text, if there is any, or the reason for the end."""
        index = delta.choice
        text = "".join(part.text for part in delta.parts if part.kind == "content")
        logprobs = None
        if index in self._unsent:
            self._unsent.remove(index)
            text = self.echoes[index] + text
            logprobs = self._logprobs(index, delta.ids, delta.logprobs, delta.top)
        elif self.has_logprobs and delta.ids:
            logprobs = self.texts.as_completion(
                delta.ids, delta.logprobs, delta.top, self._offsets[index]
            )
        if logprobs:
            self._offsets[index] = logprobs["text_offset"][-1] + len(logprobs["tokens"][-1])
        reason = delta.end.finish_reason if isinstance(delta.end, Generation) else None
        if not (text or logprobs or reason):
            return []
        return [self.envelope.chunk([self._choice(index, text, logprobs, reason)])]

    def last(
        self, generations: Sequence[Generation], added: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """One with the usage, where it is asked for, and with what is added."""
        return self.envelope.last_chunks(generations, added)

    def whole(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """All choices."""
        choices = []
        for index, found in enumerate(generations):
            logprobs = self._logprobs(index, found.token_ids, found.logprobs, found.top_logprobs)
            text = self.echoes[index] + found.text
            choices.append(self._choice(index, text, logprobs, found.finish_reason))
        return self.envelope.whole(choices, generations)

    def _logprobs(
        self,
        index: int,
        ids: Sequence[int],
        logprobs: Sequence[float],
        top: Sequence[Ranked],
    ) -> dict[str, Any] | None:
        """Those of the prompt, where it is scored, and of the first tokens of a choice."""
        if not self.has_logprobs:
            return None
        request = self.requests[index]
        scores = request.prompt_scores
        if scores is None:
            return self.texts.as_completion(ids, logprobs, top, len(self.echoes[index]))
        return self.texts.as_completion(
            [*request.reply.prompt_ids, *ids],
            [None, *scores.logprobs, *logprobs],
            [[], *scores.top, *(top or [[]] * len(ids))],
            0,
        )

    def _choice(
        self, index: int, text: str, logprobs: Any = None, reason: str | None = None
    ) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


async def completions(request: HttpRequest) -> Response:
    """Continue one text or several, each n times."""
    serving = serving_of(request)
    body, warnings = await read_request(request, CompletionRequest, UNSUPPORTED_HERE)
    serving.require_model(body.model)
    seed = draw_seed() if body.seed is None else body.seed
    wanted = Format(read_schema(body.response_format), NO_TOOLS, None, False)
    start = partial(_start, serving, body, wanted, seed)
    replies, echoes = await serving.prepare(
        request.scope["owner"], start, has_grammar=wanted.has_grammar
    )
    is_scored = bool(body.echo) and body.logprobs is not None
    requests = [as_request(request, reply, scores_prompt=is_scored) for reply in replies]
    form = CompletionForm(
        Envelope(
            "text_completion",
            "cmpl",
            serving.settings.model,
            serving.fingerprint,
            seed,
            body.n_choices,
            body.include_usage,
            warnings,
        ),
        serving.texts,
        echoes,
        requests,
        body.logprobs is not None,
    )
    return await respond(
        request,
        serving.worker.submit(requests),
        form,
        is_stream=bool(body.stream),
        send_seconds=serving.settings.send_seconds,
    )


def _start(
    serving: Serving, body: CompletionRequest, wanted: Format, seed: int
) -> tuple[list[Reply], list[str]]:
    """Empty replies, in the order of their choices, and what is echoed in front of each."""
    lm, replies, echoes = serving.lm, [], []
    if not 0 <= (body.logprobs or 0) <= MOST_TOP_LOGPROBS:
        raise ApiError(
            f"logprobs must be at least 0 and at most {MOST_TOP_LOGPROBS}; got {body.logprobs}",
            param="logprobs",
        )
    prompts = split_prompts(body.prompt, "prompt")
    n_replies = serving.require_count(len(prompts) * body.n_choices)
    constraints = iter(wanted.constraints(serving.grammars, None, n_replies))
    for prompt in prompts:
        ids = prompt_ids(lm, prompt)
        echo = ""
        if body.echo:
            lm.engine.check_ids(ids)
            echo = prompt if isinstance(prompt, str) else lm.tokenizer.decode(ids)
        for choice in range(body.n_choices):
            options = sampling_options(
                body,
                lm.sampling,
                seed=seed + choice,
                max_tokens=DEFAULT_TOKENS,
                top_logprobs=body.logprobs or 0,
            )
            replies.append(
                start_reply(
                    lm.engine,
                    lm.tokenizer,
                    ids,
                    options,
                    continues_prompt=True,
                    constraint=next(constraints),
                    has_room=serving.worker.scheduler.pool.has_pages,
                )
            )
            echoes.append(echo)
    return replies, echoes

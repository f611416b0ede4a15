"""`/v1/chat/completions`: conversations answered."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from xplm.generate.reply import Reply, start_reply
from xplm.serve.chat_form import ChatForm
from xplm.serve.constrain import UNKNOWN_CALLS, Format, read_schema
from xplm.serve.envelope import Envelope, draw_token
from xplm.serve.errors import ApiError
from xplm.serve.options import UNSUPPORTED, Sampling, draw_seed, sampling_options
from xplm.serve.prompts import plain_messages, template_args
from xplm.serve.respond import Hooks, respond
from xplm.serve.serving import Serving, as_request, read_request, serving_of
from xplm.text.call_formats import with_calls
from xplm.text.tools import read_offer

UNSUPPORTED_HERE: Mapping[str, Any] = {
    **UNSUPPORTED,
    "functions": [],
    "function_call": "none",
    "audio": None,
    "modalities": ["text"],
    "prediction": None,
    "web_search_options": None,
    "continue_final_message": False,
    "echo": False,
}


class ChatFields(Sampling, kw_only=True):
    """Fields of a request for an answer."""

    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    reasoning_effort: str | None = None


class ChatRequest(ChatFields, kw_only=True):
    """The body."""

    messages: list[dict[str, Any]]


async def chat_completions(request: HttpRequest) -> Response:
    """Answer the last message of a conversation, n times."""
    body, warnings = await read_request(request, ChatRequest, UNSUPPORTED_HERE)
    return await answer(request, body, body.messages, warnings, Hooks(), draw_token())


async def answer(
    request: HttpRequest,
    body: ChatFields,
    messages: Sequence[Any],
    warnings: list[str],
    hooks: Hooks,
    token: str,
) -> Response:
    """Answer messages.

    Args:
        request: whose answer it is.
        body: how to answer.
        messages: the conversation.
        warnings: about the body.
        hooks: what else the response does.
        token: tells the response from others.
    """
    serving = serving_of(request)
    is_begun = False
    try:
        serving.require_model(body.model)
        seed = draw_seed() if body.seed is None else body.seed
        wanted = _format_of(serving, body)
        start = partial(_start, serving, body, wanted, messages, seed)
        replies, more = await serving.prepare(
            request.scope["owner"], start, has_grammar=wanted.has_grammar
        )
        form = ChatForm(
            Envelope(
                "chat.completion",
                "chatcmpl",
                serving.settings.model,
                serving.fingerprint,
                seed,
                body.n_choices,
                body.include_usage,
                warnings + more,
                token=token,
            ),
            serving.texts,
            bool(body.logprobs),
        )
        requests = [as_request(request, reply) for reply in replies]
        submitted = serving.worker.submit(requests)
        is_begun = True
    finally:
        if not is_begun:
            hooks.close()
    return await respond(
        request,
        submitted,
        form,
        is_stream=bool(body.stream),
        send_seconds=serving.settings.send_seconds,
        hooks=hooks,
    )


def _start(
    serving: Serving, body: ChatFields, wanted: Format, given: Sequence[Any], seed: int
) -> tuple[list[Reply], list[str]]:
    """Empty replies, in the order of their choices, and warnings."""
    lm, chat_format = serving.lm, serving.require_chat()
    if body.top_logprobs and not body.logprobs:
        raise ApiError("top_logprobs needs logprobs; give it true", param="top_logprobs")
    variables, warnings = template_args(_arguments(body, wanted), chat_format)
    if wanted.offer.tools and not wanted.finds_calls:
        warnings.append(UNKNOWN_CALLS)
    opens = True if body.add_generation_prompt is None else body.add_generation_prompt
    messages = plain_messages(given, chat_format)
    ids = chat_format.encode(messages, add_generation_prompt=opens, **variables)
    if body.max_tokens is None:
        body.max_tokens = body.max_completion_tokens
    reply_format = chat_format.reply_format
    if wanted.call_format is not None and wanted.offer.tools:
        reply_format = with_calls(lm.tokenizer, wanted.call_format, wanted.offer.tools)
    n_choices = serving.require_count(body.n_choices)
    replies = [
        start_reply(
            lm.engine,
            lm.tokenizer,
            ids,
            sampling_options(
                body,
                lm.sampling,
                seed=seed + choice,
                max_tokens=serving.room(len(ids)),
                top_logprobs=body.top_logprobs or 0,
            ),
            continues_prompt=False,
            turn_end_ids=chat_format.turn_end_ids(reply_format),
            reply_format=reply_format,
            constraint=constraint,
            has_room=serving.worker.scheduler.pool.has_pages,
        )
        for choice, constraint in enumerate(wanted.constraints(serving.grammars, ids, n_choices))
    ]
    return replies, warnings


def _format_of(serving: Serving, body: ChatFields) -> Format:
    """What the answers have to look like.

    Raises:
        ApiError, RequestError: tools or schema are malformed, or cannot be had together.
    """
    offer = read_offer(body.tools, body.tool_choice)
    schema = read_schema(body.response_format)
    if offer.tools and schema is not None:
        raise ApiError(
            "response_format does not go together with tools; leave one out, or give tool_choice none",
            param="response_format",
        )
    if offer.is_required and serving.call_format is None:
        raise ApiError(f"tool_choice must be auto or none: {UNKNOWN_CALLS}", param="tool_choice")
    several = body.parallel_tool_calls is not False
    return Format(schema, offer, serving.call_format, several)


def _arguments(body: ChatFields, form: Format) -> dict[str, Any]:
    """Names for the template."""
    given = dict(body.chat_template_kwargs or {})
    if body.reasoning_effort is not None:
        given.setdefault("reasoning_effort", body.reasoning_effort)
    if form.offer.described is not None:
        given["tools"] = form.offer.described
    return given

"""`/tokenize`, `/detokenize` and `/tokenizer_info`, with the fields of vLLM, and those of llama.cpp."""

from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from xplm.serve.errors import ApiError, json_response
from xplm.serve.prompts import plain_messages, template_args
from xplm.serve.serving import Serving, read_request, serving_of


class TokenizeRequest(msgspec.Struct):
    """A text, as `prompt` or `content`, or messages."""

    model: str | None = None
    prompt: str | None = None
    content: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None
    add_special: bool | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None
    with_pieces: bool | None = None


class DetokenizeRequest(msgspec.Struct):
    """Token ids."""

    tokens: list[int]
    model: str | None = None


async def tokenize(request: HttpRequest) -> Response:
    """The token ids of a text, or of a chat."""
    serving = serving_of(request)
    body, _ = await read_request(request, TokenizeRequest, {})
    serving.require_model(body.model)
    return await run_in_threadpool(_tokenized, serving, body)


async def detokenize(request: HttpRequest) -> Response:
    """The text of token ids."""
    serving = serving_of(request)
    body, _ = await read_request(request, DetokenizeRequest, {})
    serving.require_model(body.model)
    return await run_in_threadpool(_detokenized, serving, body.tokens)


async def tokenizer_info(request: HttpRequest) -> Response:
    """Special tokens and the chat template."""
    tokenizer = serving_of(request).lm.tokenizer
    named: dict[str, Any] = dict(tokenizer.special_tokens)
    return json_response(
        named
        | {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "vocab_size": tokenizer.vocab_size,
            "model_max_length": serving_of(request).lm.engine.context,
            "chat_template": tokenizer.chat_template,
        }
    )


def _tokenized(serving: Serving, body: TokenizeRequest) -> Response:
    ids, texts = _encode(serving, body), serving.texts
    answer: dict[str, Any] = {
        "count": len(ids),
        "max_model_len": serving.lm.engine.context,
        "tokens": ids,
        "token_strs": None,
    }
    if body.return_token_strs:
        answer["token_strs"] = [texts.text(token) for token in ids]
    if body.with_pieces:
        answer["tokens"] = [{"id": token, "piece": _piece(serving, token)} for token in ids]
    return json_response(answer)


def _detokenized(serving: Serving, tokens: list[int]) -> Response:
    serving.lm.engine.require_known("tokens", tokens)
    text = serving.lm.tokenizer.decode(tokens, skip_special_tokens=False)
    return json_response({"prompt": text, "content": text})


def _encode(serving: Serving, body: TokenizeRequest) -> list[int]:
    tokenizer = serving.lm.tokenizer
    if body.messages is not None:
        chat_format = serving.require_chat()
        variables, _ = template_args(body.chat_template_kwargs or {}, chat_format)
        opens = True if body.add_generation_prompt is None else body.add_generation_prompt
        messages = plain_messages(body.messages, chat_format)
        return chat_format.encode(messages, add_generation_prompt=opens, **variables)
    if body.prompt is not None:
        is_surrounded = True if body.add_special_tokens is None else body.add_special_tokens
        ids = tokenizer.encode_long(body.prompt, add_special_tokens=is_surrounded)
        return [int(token) for token in ids]
    if body.content is not None:
        ids = tokenizer.encode_long(body.content, add_special_tokens=bool(body.add_special))
        return [int(token) for token in ids]
    raise ApiError("give a prompt, or messages")


def _piece(serving: Serving, token: int) -> str | list[int]:
    """A token as llama.cpp has it: its text, or its bytes where they are no text."""
    text = serving.texts.text(token)
    return serving.texts.bytes(token) if "\ufffd" in text else text

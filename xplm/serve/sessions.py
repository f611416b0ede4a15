"""`/v1/sessions`: conversations that the server keeps."""

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from xplm.generate.fragility import AGAINST, TokenFragility, fragility_steps
from xplm.generate.result import Generation
from xplm.serve.calls import Calls, reason_of
from xplm.serve.chat import UNSUPPORTED_HERE, ChatFields, answer
from xplm.serve.envelope import draw_token, timings
from xplm.serve.errors import ApiError, json_response
from xplm.serve.logprobs import TokenTexts
from xplm.serve.prompts import plain_messages
from xplm.serve.respond import Hooks
from xplm.serve.serving import Serving, read_request, serving_of
from xplm.serve.store import Session, Store
from xplm.serve.turns import Token, ToolCall, ToolResult, Turn, asked, messages_of


class StartRequest(msgspec.Struct):
    """A conversation to begin."""

    title: str = ""
    system: str | None = None
    turns: tuple[Turn, ...] = ()


class ChangeRequest(msgspec.Struct):
    """What to change; fields that are left out stay."""

    title: str | msgspec.UnsetType | None = msgspec.UNSET
    system: str | msgspec.UnsetType | None = msgspec.UNSET


class SendRequest(ChatFields, kw_only=True):
    """A message, the results of what the last turn called, or both; and how to answer it."""

    content: str | None = None
    tool_results: tuple[ToolResult, ...] = ()
    turns: int | None = (
        None  # of the conversation to keep; the message takes the place of later ones
    )


class AppendRequest(msgspec.Struct):
    """An exchange as it is, such as one whose answer was broken off."""

    user: str
    assistant: str
    reasoning_content: str = ""
    tool_results: tuple[ToolResult, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()


class PlaceRequest(msgspec.Struct):
    """A number of turns from the beginning; None: all."""

    turns: int | None = None


class EditRequest(msgspec.Struct):
    """Other words for an earlier turn; what follows it stays."""

    turn: int
    user: str | None = None
    assistant: str | None = None


class FragilityRequest(msgspec.Struct):
    """A turn whose tokens to judge."""

    turn: int
    against: str = AGAINST


async def list_sessions(request: HttpRequest) -> Response:
    """All conversations, the one that changed last first, without what was said."""
    found = [_describe(s) for s in _store(request).of_owner(request.scope["owner"])]
    return json_response({"object": "list", "data": found})


async def start_session(request: HttpRequest) -> Response:
    """Begin a conversation."""
    body, _ = await read_request(request, StartRequest, {})
    store = _store(request)
    session = store.start(
        request.scope["owner"], title=body.title, system=body.system, turns=body.turns
    )
    return _whole(await store.save(session), 201)


async def get_session(request: HttpRequest) -> Response:
    """A conversation with all that was said."""
    return _whole(_find(request))


async def change_session(request: HttpRequest) -> Response:
    """Change the title or the system message."""
    body, _ = await read_request(request, ChangeRequest, {})
    async with _held(request) as session:
        title = session.title if body.title is msgspec.UNSET else body.title or ""
        system = session.system if body.system is msgspec.UNSET else body.system
        changed = msgspec.structs.replace(session, title=title, system=system)
        return _whole(await _store(request).save(changed))


async def delete_session(request: HttpRequest) -> Response:
    """Remove a conversation."""
    async with _held(request) as session:
        await _store(request).delete(session)
    return json_response({"id": session.id, "object": "session.deleted", "deleted": True})


async def append_turn(request: HttpRequest) -> Response:
    """Add an exchange."""
    body, _ = await read_request(request, AppendRequest, {})
    async with _held(request) as session:
        turn = Turn(
            body.user,
            body.assistant,
            body.reasoning_content,
            tool_results=body.tool_results,
            tool_calls=body.tool_calls,
        )
        changed = msgspec.structs.replace(session, turns=(*session.turns, turn))
        return _whole(await _store(request).save(changed))


async def rollback_session(request: HttpRequest) -> Response:
    """Take back all turns after some."""
    body, _ = await read_request(request, PlaceRequest, {})
    async with _held(request) as session:
        n = len(session.turns) - 1 if body.turns is None else body.turns
        changed = msgspec.structs.replace(session, turns=_first(session, n))
        return _whole(await _store(request).save(changed))


async def fork_session(request: HttpRequest) -> Response:
    """Begin another conversation with this one's first turns."""
    body, _ = await read_request(request, PlaceRequest, {})
    session, store = _find(request), _store(request)
    n = len(session.turns) if body.turns is None else body.turns
    other = store.start(
        session.owner,
        title=session.title,
        system=session.system,
        turns=_first(session, n),
        parent=session.id,
    )
    return _whole(await store.save(other), 201)


async def edit_turn(request: HttpRequest) -> Response:
    """Change the words of an earlier turn."""
    body, _ = await read_request(request, EditRequest, {})
    async with _held(request) as session:
        turn = _turn_at(session, body.turn)
        if body.user is not None:
            turn = msgspec.structs.replace(turn, user=body.user)
        if body.assistant is not None:
            said = {"assistant": body.assistant, "reasoning_content": "", "finish_reason": None}
            turn = msgspec.structs.replace(turn, **said, tokens=(), timings=None)
        return _whole(await _store(request).save(_with_turn(session, body.turn, turn)))


async def measure_turn(request: HttpRequest) -> Response:
    """Judge which tokens of an answer hang on rounding, and keep that with them; others wait a pass at a time."""
    body, _ = await read_request(request, FragilityRequest, {})
    serving = serving_of(request)
    async with _held(request) as session:
        turn = _turn_at(session, body.turn)
        if not turn.tokens:
            raise ApiError("a turn has tokens to judge if logprobs was true for it", param="turn")
        messages = messages_of(session.system, session.turns[: body.turn])
        messages += asked(turn.user, turn.tool_results)
        ids = await run_in_threadpool(_encode, serving, messages)
        reply = [token.id for token in turn.tokens]
        work = fragility_steps(serving.lm.engine, [ids], [reply], body.against)
        (found,) = await serving.worker.compute(work, session.owner)
        tokens = tuple(
            msgspec.structs.replace(token, is_fragile=_is_fragile(judged))
            for token, judged in zip(turn.tokens, found, strict=True)
        )
        turn = msgspec.structs.replace(turn, tokens=tokens)
        return _whole(await _store(request).save(_with_turn(session, body.turn, turn)))


async def send_message(request: HttpRequest) -> Response:
    """Say something, and have it answered; the turn is stored before the response ends, or not at all."""
    body, warnings = await read_request(request, SendRequest, UNSUPPORTED_HERE)
    if body.n_choices > 1:
        raise ApiError("a message of a conversation has one answer; leave out n", param="n")
    session, store = _find(request), _store(request)
    before = _first(session, len(session.turns) if body.turns is None else body.turns)
    _require_asked(body, before)
    said, token = body.content or "", draw_token()
    store.hold(session)

    async def keep(generations: Sequence[Generation]) -> dict[str, Any]:
        (found,) = generations
        tokens = _tokens_of(found, serving_of(request).texts) if body.logprobs else ()
        turn = Turn(
            said,
            found.text,
            found.reasoning,
            reason_of(found),
            tokens,
            timings(generations),
            body.tool_results,
            msgspec.convert(Calls(token).whole(0, found), tuple[ToolCall, ...]),
        )
        kept = await store.save(msgspec.structs.replace(session, turns=(*before, turn)))
        return {"session": _describe(kept), "turn": turn}

    hooks = Hooks(finish=keep, close=lambda: store.release(session))
    messages = messages_of(session.system, before) + asked(said, body.tool_results)
    return await answer(request, body, messages, warnings, hooks, token)


def _store(request: HttpRequest) -> Store:
    """The store of a server that keeps conversations."""
    store = serving_of(request).store
    if store is None:
        raise ApiError(
            "this server keeps no conversations; start it with --sessions",
            status=501,
            kind="not_supported_error",
            code="not_supported",
        )
    return store


def _find(request: HttpRequest) -> Session:
    return _store(request).find(request.path_params["name"], request.scope["owner"])


@asynccontextmanager
async def _held(request: HttpRequest) -> AsyncIterator[Session]:
    """A conversation that nobody else changes meanwhile."""
    session, store = _find(request), _store(request)
    store.hold(session)
    try:
        yield session
    finally:
        store.release(session)


def _first(session: Session, n: int) -> tuple[Turn, ...]:
    if not 0 <= n <= len(session.turns):
        raise ApiError(
            f"the conversation has {len(session.turns)} turns; got {n} to keep", param="turns"
        )
    return session.turns[:n]


def _turn_at(session: Session, index: int) -> Turn:
    if not 0 <= index < len(session.turns):
        raise ApiError(
            f"the conversation has {len(session.turns)} turns, counted from 0; got {index}",
            param="turn",
        )
    return session.turns[index]


def _with_turn(session: Session, index: int, turn: Turn) -> Session:
    turns = (*session.turns[:index], turn, *session.turns[index + 1 :])
    return msgspec.structs.replace(session, turns=turns)


def _require_asked(body: SendRequest, before: Sequence[Turn]) -> None:
    """Refuse a message without words, and results of calls that were not made.

    Raises:
        ApiError: it is such a one.
    """
    called = [call.id for call in before[-1].tool_calls] if before else []
    unknown = [r.tool_call_id for r in body.tool_results if r.tool_call_id not in called]
    if unknown:
        raise ApiError(
            f"tool_results must be those of calls of the turn before; got {unknown[0]!r:.40}",
            param="tool_results",
        )
    if body.content is None and not body.tool_results:
        raise ApiError("a message must have content, or tool_results", param="content")


def _encode(serving: Serving, messages: Sequence[dict[str, Any]]) -> list[int]:
    """The prompt of the next answer."""
    chat_format = serving.require_chat()
    plain = plain_messages(messages, chat_format)
    return chat_format.encode(plain, add_generation_prompt=True)


def _is_fragile(judged: TokenFragility) -> bool | None:
    """None of a token that is not the likeliest, whatever the rounding: a coin chose it."""
    return None if judged.margin < -judged.bound else judged.is_fragile


def _tokens_of(found: Generation, texts: TokenTexts) -> tuple[Token, ...]:
    tops = found.top_logprobs or [[]] * len(found.token_ids)
    return tuple(
        Token(
            token,
            texts.text(token),
            _finite(logprob),
            tuple((texts.text(other), _finite(its)) for other, its in top),
        )
        for token, logprob, top in zip(found.token_ids, found.logprobs, tops, strict=True)
    )


def _finite(logprob: float) -> float | None:
    return logprob if math.isfinite(logprob) else None


def _describe(session: Session) -> dict[str, Any]:
    return {
        "id": session.id,
        "object": "session",
        "created": session.created,
        "updated": session.updated,
        "title": session.title,
        "system": session.system,
        "parent": session.parent,
        "n_turns": len(session.turns),
    }


def _whole(session: Session, status: int = 200) -> Response:
    return json_response(_describe(session) | {"turns": session.turns}, status)

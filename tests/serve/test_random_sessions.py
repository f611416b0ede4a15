"""Conversations on the server under random operations: each answer has the bits of a computation from scratch."""

import asyncio
import json
import random
import secrets
from contextlib import AsyncExitStack

import pytest

from tests.generate.alone import KINDS, compute_alone, make_model
from tests.page_books import check_books
from tests.serve.client import app_of, chunks_of, is_at_rest
from xplm.generate.chat_format import ChatFormat
from xplm.generate.options import SamplingOptions
from xplm.page_pool import PagePool

MOST_SESSIONS, LIMIT_PAGES = 6, 12
SESSIONS = "/v1/sessions"
LETTERS = "abcdefgh \n"


async def call(app, method, path, body=None, *, leave_after=None):
    """The status and the body; `leave_after` pieces of it, where there are more, the client leaves."""
    asked, answer, statuses, has_left = [json.dumps(body or {}).encode()], [], [], asyncio.Event()

    async def receive():
        if asked:
            return {"type": "http.request", "body": asked.pop(), "more_body": False}
        await has_left.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
        else:
            answer.append(message.get("body", b""))
            if leave_after is not None and len(answer) >= leave_after:
                has_left.set()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, receive, send)
    return statuses[0], b"".join(answer).decode()


class World:
    """A server, and its conversations as their clients know them."""

    def __init__(self, kind, seed, directory):
        self.rng, self.directory = random.Random(seed), directory
        self.lm = make_model(kind)
        self.format = ChatFormat(self.lm.tokenizer, self.lm.engine.context)
        page_bytes = PagePool(self.lm.rt, self.lm.config).count_bytes(1)
        self.settings = {"sessions": directory, "cache_bytes": LIMIT_PAGES * page_bytes}
        self.known = {}  # system message and turns, by name
        self.n_replies = self.n_reused = 0

    async def start_server(self):
        self.stack, self.app = AsyncExitStack(), app_of(self.lm, **self.settings)
        await self.stack.enter_async_context(self.app.router.lifespan_context(self.app))

    async def run(self, count):
        await self.start_server()
        await self.start()
        for _ in range(count):
            actions = {
                self.send_several: 10,
                self.leave: 2,
                self.rollback: 2,
                self.fork: 2,
                self.edit: 2,
                self.append: 1,
                self.change_system: 1,
                self.start: 1,
                self.delete: 1,
                self.restart: 0.4,
            }
            (action,) = self.rng.choices([*actions], [*actions.values()])
            await action()
            await self.rest()
        await self.stack.aclose()

    async def post(self, name, what, status=200, **body):
        found, text = await call(self.app, "POST", f"{SESSIONS}/{name}/{what}", body)
        assert found == status, text
        return json.loads(text)

    async def rest(self):
        """Nobody is served, no page is held, and what is stored is what was said."""
        while not is_at_rest(self.app):
            await asyncio.sleep(0.001)
        check_books(self.app.state.serving.worker.scheduler.pool, [])
        for name, (_, turns) in self.known.items():
            assert await self.stored(name) == turns

    async def stored(self, name):
        _, text = await call(self.app, "GET", f"{SESSIONS}/{name}")
        return [(turn["user"], turn["assistant"]) for turn in json.loads(text)["turns"]]

    def choose(self):
        return self.rng.choice([*self.known])

    def draw_text(self, most=30):
        return "".join(self.rng.choices(LETTERS, k=self.rng.randint(1, most)))

    def draw_message(self):
        body = {"content": self.draw_text(), "max_tokens": self.rng.randint(1, 20)}
        body |= {"logprobs": True, "top_logprobs": 3, "ignore_eos": True}
        sampled = {"temperature": 1.0, "top_p": 0.9, "seed": self.rng.randint(0, 99)}
        return body | (sampled if self.rng.random() < 0.5 else {"temperature": 0})

    def prompt_ids(self, name, n_turns, content):
        system, turns = self.known[name]
        messages = [{"role": "system", "content": system}] if system else []
        for user, assistant in turns[:n_turns]:
            messages += [
                {"role": "user", "content": user},
                {"role": "assistant", "content": assistant},
            ]
        messages.append({"role": "user", "content": content})
        return self.format.encode(messages, add_generation_prompt=True)

    async def send_several(self):
        names = self.rng.sample([*self.known], min(len(self.known), self.rng.randint(1, 3)))
        await asyncio.gather(*[self.send(name) for name in names])

    async def send(self, name):
        """Say something after all turns, or in the place of some."""
        body, turns = self.draw_message(), self.known[name][1]
        n_turns = self.rng.choice((len(turns), self.rng.randint(0, len(turns))))
        if self.rng.random() < 0.3:
            body["turns"] = n_turns
        else:
            n_turns = len(turns)
        ids = self.prompt_ids(name, n_turns, body["content"])
        if len(ids) + body["max_tokens"] > self.lm.engine.context:
            await self.post(name, "rollback", turns=0)
            turns.clear()
            return
        answer = await self.post(name, "send", **body)
        self.check(ids, body, answer["turn"])
        turns[n_turns:] = [(body["content"], answer["turn"]["assistant"])]
        self.n_replies += 1
        self.n_reused += answer["timings"]["cache_n"]
        assert answer["timings"]["prompt_n"] >= len(ids) - answer["timings"]["cache_n"] > 0

    def check(self, ids, body, turn):
        names = {"temperature", "top_p", "seed", "ignore_eos", "top_logprobs"} & set(body)
        options = {name: body[name] for name in names} | {"max_new_tokens": body["max_tokens"]}
        expected = compute_alone(self.lm, ids, SamplingOptions(**options))
        assert [token[0] for token in turn["tokens"]] == expected.ids
        assert [token[2] for token in turn["tokens"]] == expected.logprobs
        tops = [[value for _, value in top] for top in expected.top_logprobs]
        assert [[value for _, value in token[3]] for token in turn["tokens"]] == tops
        assert turn["assistant"] == expected.text

    async def leave(self):
        """Say something, and leave while it is answered, or after that."""
        name, body = self.choose(), self.draw_message() | {"stream": True}
        ids = self.prompt_ids(name, len(self.known[name][1]), body["content"])
        if len(ids) + body["max_tokens"] > self.lm.engine.context:
            return
        left = {"leave_after": self.rng.randint(1, 12)}
        _, text = await call(self.app, "POST", f"{SESSIONS}/{name}/send", body, **left)
        turns = await self.stored(name)
        if len(turns) > len(self.known[name][1]):
            if text.endswith("[DONE]\n\n"):
                self.check(ids, body, chunks_of(text)[-1]["turn"])
            self.known[name][1].append(turns[-1])

    async def rollback(self):
        name = self.choose()
        turns = self.known[name][1]
        n = self.rng.randint(0, len(turns))
        await self.post(name, "rollback", turns=n)
        del turns[n:]

    async def fork(self):
        if len(self.known) == MOST_SESSIONS:
            await self.delete()
        name = self.choose()
        system, turns = self.known[name]
        n = self.rng.randint(0, len(turns))
        other = await self.post(name, "fork", 201, turns=n)
        self.known[other["id"]] = [system, turns[:n]]

    async def edit(self):
        name = self.choose()
        turns = self.known[name][1]
        if turns:
            n, words = self.rng.randrange(len(turns)), self.draw_text()
            which = self.rng.choice(("user", "assistant"))
            await self.post(name, "edit", turn=n, **{which: words})
            user, assistant = turns[n]
            turns[n] = (words, assistant) if which == "user" else (user, words)

    async def append(self):
        name, turn = self.choose(), (self.draw_text(), self.draw_text())
        await self.post(name, "append", user=turn[0], assistant=turn[1])
        self.known[name][1].append(turn)

    async def change_system(self):
        name, system = self.choose(), self.rng.choice((None, "Be brief.", self.draw_text()))
        status, text = await call(self.app, "PATCH", f"{SESSIONS}/{name}", {"system": system})
        assert status == 200, text
        self.known[name][0] = system

    async def start(self):
        if len(self.known) < MOST_SESSIONS:
            status, text = await call(self.app, "POST", SESSIONS, {"system": "Be brief."})
            assert status == 201, text
            self.known[json.loads(text)["id"]] = ["Be brief.", []]

    async def delete(self):
        if len(self.known) > 1:
            name = self.choose()
            status, text = await call(self.app, "DELETE", f"{SESSIONS}/{name}")
            assert status == 200, text
            del self.known[name]

    async def restart(self):
        await self.stack.aclose()
        await self.start_server()
        _, text = await call(self.app, "GET", SESSIONS)
        assert {session["id"] for session in json.loads(text)["data"]} == set(self.known)


def run(kind, seed, count, directory):
    world = World(kind, seed, directory)
    try:
        asyncio.run(world.run(count))
    except BaseException as fault:
        fault.add_note(f"operations of {kind!r} with seed {seed}")
        raise
    return world


def test_answers_have_the_bits_of_a_computation_from_scratch(tmp_path):
    world = run("mixed", 1, 40, tmp_path)
    assert world.n_replies > 10
    assert world.n_reused > 0


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
def test_so_have_those_of_hundreds_of_operations(kind, tmp_path):
    """With another seed each night; the note of a failure says which."""
    run(kind, secrets.randbelow(1 << 32), 300, tmp_path)

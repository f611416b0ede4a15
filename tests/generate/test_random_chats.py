"""Conversations under random operations: each reply has the bits of a computation from scratch."""

import gc
import json
import random
import secrets

import pytest

from tests.generate.alone import KINDS, compute_alone, make_model, play
from tests.page_books import check_books
from xplm.errors import ContextError
from xplm.generate.options import SamplingOptions

MOST_CHATS = 6
LETTERS = "abcdefgh \n"

BEAMS = {"num_beams": 2, "max_new_tokens": 4, "ignore_eos": True}


class World:
    """A few conversations with one model, and what is done to them."""

    def __init__(self, kind, seed, directory):
        self.rng, self.directory = random.Random(seed), directory
        self.lm = make_model(kind)
        self.chats = [self.lm.chat()]
        self.n_replies = self.n_reused = 0

    def act(self):
        actions = {
            self.send: 8,
            self.send_beams: 1,
            self.cancel: 2,
            self.rollback: 3,
            self.send_again: 2,
            self.fork: 2,
            self.edit: 2,
            self.append: 1,
            self.change_system: 1,
            self.drop: 1,
            self.restart: 1,
            self.evict: 1,
        }
        (action,) = self.rng.choices([*actions], [*actions.values()])
        action(self.rng.choice(self.chats))
        for pool in {id(chat._pool): chat._pool for chat in self.chats}.values():
            check_books(pool, [chat._row for chat in self.chats if chat._pool is pool])

    def draw_text(self, most=40):
        return "".join(self.rng.choices(LETTERS, k=self.rng.randint(0, most)))

    def draw_options(self):
        options = {"max_new_tokens": self.rng.randint(1, 24), "ignore_eos": self.rng.random() < 0.8}
        if self.rng.random() < 0.5:
            options |= {"temperature": 1.0, "top_p": 0.9, "seed": self.rng.randint(0, 99)}
        return options | {"top_logprobs": self.rng.choice((0, 3))}

    def send(self, chat, text=None):
        text, options = self.draw_text() if text is None else text, self.draw_options()
        before, ids = chat.messages, chat.prompt_ids(text)
        if len(ids) >= chat.context:
            with pytest.raises(ContextError):
                chat.send(text, **options)
            assert chat.messages == before
            chat.clear()
            return
        out = chat.send(text, **options)
        form = chat._format
        expected = compute_alone(
            self.lm,
            ids,
            SamplingOptions(**options),
            turn_end_ids=form.turn_end_ids(form.reply_format),
            reply_format=form.reply_format,
        )
        assert (out.token_ids, out.logprobs) == (expected.ids, expected.logprobs)
        assert out.top_logprobs == (expected.top_logprobs if options["top_logprobs"] else [])
        assert out.text == expected.text
        assert chat.messages == [
            *before,
            {"role": "user", "content": text},
            {"role": "assistant", "content": out.text},
        ]
        self.n_replies += 1
        self.n_reused += out.timings.reused_tokens
        assert out.timings.prefill_tokens >= out.prompt_tokens - out.timings.reused_tokens > 0

    def send_again(self, chat):
        if chat.n_turns:
            text = [m["content"] for m in chat.messages if m["role"] == "user"][-1]
            chat.rollback()
            self.send(chat, text)

    def send_beams(self, chat):
        text = self.draw_text()
        ids = chat.prompt_ids(text)
        if len(ids) < chat.context:
            out, expected = chat.send(text, **BEAMS), self.lm.generate(ids, **BEAMS)
            assert (out.token_ids, out.logprobs) == (expected.token_ids, expected.logprobs)

    def cancel(self, chat):
        text, before = self.draw_text(), chat.messages
        if len(chat.prompt_ids(text)) < chat.context:
            stream = chat.stream(text, **self.draw_options() | {"ignore_eos": True})
            for _ in zip(range(self.rng.randint(0, 5)), stream, strict=False):
                pass
            if stream.result is None:
                stream.close()
                assert chat.messages == before

    def rollback(self, chat):
        chat.rollback(self.rng.randint(0, chat.n_turns))

    def fork(self, chat):
        if len(self.chats) == MOST_CHATS:
            self.drop(chat)
        self.chats.append(chat.fork())

    def drop(self, chat):
        self.chats.remove(chat)
        self.chats = self.chats or [self.lm.chat()]

    def edit(self, chat):
        """Other words for a message in the middle; what follows stays."""
        if chat.n_turns:
            path = self.directory / "chat.json"
            chat.save(path)
            said = json.loads(path.read_text())
            self.rng.choice(said["messages"])["content"] = self.draw_text()
            path.write_text(json.dumps(said))
            chat.load(path)
            assert chat.messages == [
                m for m in said["messages"] if m["role"] != "system" or m["content"]
            ]

    def append(self, chat):
        chat.append(self.draw_text(), self.draw_text())

    def change_system(self, chat):
        chat.system = self.rng.choice((None, "Be brief.", self.draw_text()))

    def restart(self, chat):
        path, fresh = self.directory / "chat.json", self.lm.chat()
        chat.save(path)
        fresh.load(path)
        self.chats[self.chats.index(chat)] = fresh

    def evict(self, chat):
        """Have something else take all pages that are kept."""
        pool = chat._pool
        row = pool.acquire([], b"something else")
        n_pages = 0
        while any(group.book.n_idle for group in pool.groups):
            n_pages += 1
            assert row.reserve(64 * n_pages)
        row.release()

    def end(self):
        """Let go of everything: no page is held."""
        pools = {id(chat._pool): chat._pool for chat in self.chats}
        self.chats.clear()
        gc.collect()
        for pool in pools.values():
            check_books(pool, [])
            assert pool.held_bytes == 0


def run(kind, seed, count, directory):
    return play(World(kind, seed, directory), kind, seed, count)


@pytest.mark.parametrize("kind", KINDS)
def test_replies_have_the_bits_of_a_computation_from_scratch(kind, tmp_path):
    world = run(kind, 1, 60, tmp_path)
    assert world.n_replies > 10
    assert world.n_reused > 0


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS)
def test_so_have_those_of_thousands_of_operations(kind, tmp_path):
    """With another seed each night; the note of a failure says which."""
    run(kind, secrets.randbelow(1 << 32), 1500, tmp_path)

"""Conversations that the server keeps: what they become, that none is lost, and whose they are."""

import json
import os
import signal
import subprocess
import sys

import httpx
import pytest

from tests.generate.tiny import tiny_model
from tests.paths import ROOT
from tests.serve.client import chunks_of, client_of, is_at_rest, live, slowed, wait_until
from xplm.checkpoint import files
from xplm.generate.chat_format import ChatFormat
from xplm.serve.guard import key_digest

GREEDY = {"temperature": 0, "max_tokens": 6, "ignore_eos": True}
OPTIONS = {"max_new_tokens": 6, "ignore_eos": True}
SESSIONS = "/v1/sessions"


@pytest.fixture(scope="module")
def lm():
    return tiny_model()


@pytest.fixture
def client(lm, tmp_path):
    with client_of(lm, sessions=tmp_path / "sessions") as client:
        yield client


def start(client, **body):
    response = client.post(SESSIONS, json=body)
    assert response.status_code == 201, response.text
    return response.json()["id"]


def post(client, name, what, status=200, **body):
    response = client.post(f"{SESSIONS}/{name}/{what}", json=body)
    assert response.status_code == status, response.text
    return response.json()


def said(client, name):
    turns = client.get(f"{SESSIONS}/{name}").json()["turns"]
    return [(turn["user"], turn["assistant"]) for turn in turns]


def test_a_conversation_is_that_of_a_chat(lm, client):
    chat = lm.chat(system="Be brief.")
    name = start(client, system="Be brief.", title="Rain")
    first = "a question that fills more than one page of sixty-four tokens"
    for text in (first, "more"):
        expected = chat.send(text, **OPTIONS)
        answer = post(client, name, "send", content=text, **GREEDY)
        assert answer["choices"][0]["message"]["content"] == expected.text
        assert answer["usage"]["prompt_tokens"] == expected.prompt_tokens
    assert answer["session"]["n_turns"] == 2
    assert [text for text, _ in said(client, name)] == [first, "more"]
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 0

    post(client, name, "rollback", turns=1)
    chat.rollback(1)
    again = post(client, name, "send", content="other", **GREEDY)
    assert again["choices"][0]["message"]["content"] == chat.send("other", **OPTIONS).text

    post(client, name, "rollback")  # the last
    assert [text for text, _ in said(client, name)] == [first]


def test_a_message_may_take_the_place_of_later_turns(lm, client):
    name = start(client)
    for text in ("a", "b", "c"):
        post(client, name, "send", content=text, **GREEDY)
    chat = lm.chat()
    chat.send("a", **OPTIONS)
    answer = post(client, name, "send", content="B", turns=1, **GREEDY)
    assert answer["choices"][0]["message"]["content"] == chat.send("B", **OPTIONS).text
    assert [text for text, _ in said(client, name)] == ["a", "B"]
    post(client, name, "send", 400, content="d", turns=3, **GREEDY)
    assert [text for text, _ in said(client, name)] == ["a", "B"]


def test_tokens_are_kept_where_they_were_asked_for(client):
    name = start(client)
    given = GREEDY | {"logprobs": True, "top_logprobs": 6}
    post(client, name, "send", content="a", **GREEDY)
    answer = post(client, name, "send", content="b", **given)
    plain, full = client.get(f"{SESSIONS}/{name}").json()["turns"]
    assert plain["tokens"] == []
    assert full == answer["turn"]
    assert full["timings"] == answer["timings"]
    for token, entry in zip(
        full["tokens"], answer["choices"][0]["logprobs"]["content"], strict=True
    ):
        ranked = [[top["token"], top["logprob"]] for top in entry["top_logprobs"]]
        assert token[1:] == [entry["token"], entry["logprob"], ranked, None]
    edited = post(client, name, "edit", turn=1, assistant="c")["turns"][1]
    assert (edited["tokens"], edited["timings"]) == ([], None)


def test_fragile_tokens_are_those_of_the_model(lm, client):
    name = start(client)
    post(client, name, "send", content="a", **GREEDY)
    post(client, name, "send", content="b", **GREEDY, logprobs=True)
    plain, turn = post(client, name, "fragility", turn=1)["turns"]
    messages = [("user", "a"), ("assistant", plain["assistant"]), ("user", "b")]
    prompt = ChatFormat(lm.tokenizer, lm.engine.context).encode(
        [{"role": role, "content": content} for role, content in messages],
        add_generation_prompt=True,
    )
    expected = lm.fragility(prompt, [token[0] for token in turn["tokens"]])
    assert [token[4] for token in turn["tokens"]] == [token.is_fragile for token in expected]
    assert client.get(f"{SESSIONS}/{name}").json()["turns"] == [plain, turn]
    for wrong in ({"turn": 0}, {"turn": 2}, {"turn": 1, "against": "fp3"}):
        post(client, name, "fragility", 400, **wrong)
    post(client, name, "send", content="c", **GREEDY)  # it is not held


def test_a_token_that_a_coin_chose_is_not_judged(client):
    name = start(client)
    hot = GREEDY | {"temperature": 50, "seed": 1, "logprobs": True, "top_logprobs": 1}
    post(client, name, "send", content="a", **hot)
    (turn,) = post(client, name, "fragility", turn=0)["turns"]
    drawn = [token for token in turn["tokens"] if token[3][0][1] - token[2] > 1.0]
    assert drawn
    assert {token[4] for token in drawn} == {None}


def test_a_fork_and_its_origin_go_on_apart(lm, client):
    name = start(client)
    for text in ("a", "b"):
        post(client, name, "send", content=text, **GREEDY)
    other = post(client, name, "fork", 201, turns=1)
    assert (other["parent"], other["n_turns"]) == (name, 1)
    post(client, other["id"], "send", content="c", **GREEDY)
    assert [text for text, _ in said(client, name)] == ["a", "b"]
    assert [text for text, _ in said(client, other["id"])] == ["a", "c"]
    chat = lm.chat()
    chat.send("a", **OPTIONS)
    assert said(client, other["id"])[1][1] == chat.send("c", **OPTIONS).text


def test_an_edited_turn_is_what_later_answers_read(lm, client):
    name = start(client)
    for text in ("a", "b"):
        post(client, name, "send", content=text, **GREEDY)
    (_, second) = said(client, name)
    post(client, name, "edit", turn=0, user="A", assistant="B")
    assert said(client, name) == [("A", "B"), second]
    chat = lm.chat()
    chat.append("A", "B")
    chat.append(*second)
    answer = post(client, name, "send", content="c", **GREEDY)
    assert answer["choices"][0]["message"]["content"] == chat.send("c", **OPTIONS).text


def test_a_turn_may_be_added_as_it_is(client):
    name = start(client, turns=[{"user": "a", "assistant": "b"}])
    post(client, name, "append", user="c", assistant="d")
    assert said(client, name) == [("a", "b"), ("c", "d")]


def test_a_stream_keeps_the_turn_before_it_ends(client):
    name = start(client)
    response = client.post(
        f"{SESSIONS}/{name}/send", json={"content": "hi", "stream": True, **GREEDY}
    )
    *chunks, last = chunks_of(response.text)
    text = "".join(c["delta"].get("content") or "" for x in chunks for c in x["choices"])
    assert last["session"]["n_turns"] == 1
    assert said(client, name) == [("hi", text)]


def test_conversations_are_listed_changed_and_deleted(client):
    names = [start(client, title=title) for title in ("one", "two")]
    client.patch(f"{SESSIONS}/{names[0]}", json={"title": "first"})
    listed = client.get(SESSIONS).json()["data"]
    assert {session["title"] for session in listed} == {"first", "two"}
    assert all("turns" not in session for session in listed)
    assert client.patch(f"{SESSIONS}/{names[0]}", json={"system": "x"}).json()["title"] == "first"
    assert client.delete(f"{SESSIONS}/{names[0]}").json()["deleted"]
    assert client.get(f"{SESSIONS}/{names[0]}").status_code == 404
    assert [session["id"] for session in client.get(SESSIONS).json()["data"]] == names[1:]


@pytest.mark.parametrize(
    ("what", "body", "status"),
    [
        ("send", {}, 400),
        ("send", {"content": 5}, 400),
        ("send", {"content": "a", "n": 2}, 400),
        ("send", {"content": "a", "model": "gpt"}, 404),
        ("send", {"content": "a" * 5000}, 400),
        ("rollback", {"turns": 1}, 400),
        ("rollback", {}, 400),
        ("rollback", {"turns": -1}, 400),
        ("fork", {"turns": 10**30}, 400),
        ("edit", {"turn": 0}, 400),
        ("append", {"user": "a"}, 400),
    ],
)
def test_what_is_wrong_changes_nothing(client, what, body, status):
    name = start(client)
    post(client, name, what, status, **body)
    assert said(client, name) == []
    post(client, name, "send", content="hi", **GREEDY)  # it is not held


@pytest.mark.parametrize("name", ["session-" + "0" * 24, "..", "x", "%2e%2e%2fkeys"])
def test_a_name_that_is_not_there_is_not_found(client, name):
    for response in (
        client.get(f"{SESSIONS}/{name}"),
        client.delete(f"{SESSIONS}/{name}"),
        client.post(f"{SESSIONS}/{name}/send", json={"content": "hi"}),
    ):
        assert response.status_code in (404, 405)


def test_a_key_sees_its_own_conversations_alone(lm, tmp_path):
    keys = frozenset(map(key_digest, ("alpha", "beta")))
    with client_of(lm, sessions=tmp_path, key_digests=keys) as client:
        alpha, beta = ({"authorization": f"Bearer {key}"} for key in ("alpha", "beta"))
        name = client.post(SESSIONS, json={}, headers=alpha).json()["id"]
        assert len(client.get(SESSIONS, headers=alpha).json()["data"]) == 1
        assert client.get(SESSIONS, headers=beta).json()["data"] == []
        for method, path in [
            ("GET", ""),
            ("DELETE", ""),
            ("PATCH", ""),
            ("POST", "/send"),
            ("POST", "/fork"),
        ]:
            body = {"content": "hi"} if path == "/send" else {}
            response = client.request(method, f"{SESSIONS}/{name}{path}", json=body, headers=beta)
            assert response.status_code == 404
        assert all("alpha" not in path.read_text() for path in tmp_path.iterdir())


def test_a_restart_loses_none(lm, tmp_path):
    with client_of(lm, sessions=tmp_path) as client:
        name = start(client, title="Rain")
        post(client, name, "send", content="hi", **GREEDY)
        before = client.get(f"{SESSIONS}/{name}").json()
    (tmp_path / "session-broken.json").write_text("{")
    (tmp_path / ".session-x.json.0123456789abcdef.partial").write_text("{")
    with client_of(lm, sessions=tmp_path) as client:
        assert client.get(f"{SESSIONS}/{name}").json() == before
        assert len(client.get(SESSIONS).json()["data"]) == 1


def test_a_disk_that_refuses_leaves_the_conversation_as_it_was(client, monkeypatch):
    name = start(client)
    post(client, name, "send", content="a", **GREEDY)
    before = said(client, name)

    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", refuse)
        answer = post(client, name, "send", 507, content="b", **GREEDY)
        assert "No space left" in answer["error"]["message"]
    assert said(client, name) == before
    post(client, name, "send", content="b", **GREEDY)


def test_a_message_that_is_being_answered_holds_the_conversation(lm, tmp_path):
    body = {"content": "hi", "stream": True, "max_tokens": 150, "ignore_eos": True}
    with (
        live(lm, sessions=tmp_path) as (address, app),
        slowed(0.02),
        httpx.Client(base_url=address) as http,
    ):
        name = http.post(SESSIONS, json={}).json()["id"]
        with http.stream("POST", f"{SESSIONS}/{name}/send", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            busy = http.post(f"{SESSIONS}/{name}/send", json={"content": "no"})
            assert busy.status_code == 409
            assert http.delete(f"{SESSIONS}/{name}").status_code == 409
        wait_until(lambda: is_at_rest(app))
        wait_until(
            lambda: http.post(f"{SESSIONS}/{name}/rollback", json={"turns": 0}).status_code == 200
        )
        assert http.get(f"{SESSIONS}/{name}").json()["turns"] == []  # as if it had not been sent


def test_a_server_without_a_directory_says_so(lm):
    with client_of(lm) as client:
        assert client.get(SESSIONS).status_code == 501


WRITER = """
import asyncio, sys
from pathlib import Path
from xplm.serve.store import Store, Turn
import msgspec

async def run():
    store = Store(Path(sys.argv[1]), owner_bytes=1 << 30, all_bytes=1 << 30)
    session = await store.save(store.start(""))
    print(session.id, flush=True)
    while True:
        turns = (*session.turns, Turn("x" * 5000, "y" * 5000))
        session = await store.save(msgspec.structs.replace(session, turns=turns))
        print(len(session.turns), flush=True)

asyncio.run(run())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL to send")
@pytest.mark.parametrize("count", [3, pytest.param(50, marks=pytest.mark.nightly)])
def test_a_killed_writer_loses_nothing_that_it_had_written(tmp_path, count):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "backends"), *filter(None, sys.path)])
    for n in range(count):
        directory = tmp_path / str(n)
        command = [sys.executable, "-c", WRITER, str(directory)]
        writer = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths}
        )
        name = writer.stdout.readline().strip()
        for _ in range(5 + n):
            told = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        told = max([told, *map(int, writer.stdout.read().split())])
        writer.wait()
        writer.stdout.close()
        stored = json.loads((directory / f"{name}.json").read_text())
        assert len(stored["turns"]) >= told
        assert all(len(turn["user"]) == 5000 for turn in stored["turns"])

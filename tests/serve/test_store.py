"""The directory of conversations: whose it is, who may read it, and how much it holds."""

import os
import sys

import pytest

from tests.generate.tiny import tiny_model
from tests.serve.client import app_of, client_of
from xplm.checkpoint import files
from xplm.errors import RequestError
from xplm.serve.guard import key_digest

SESSIONS = "/v1/sessions"
ALPHA, BETA = ({"authorization": f"Bearer {key}"} for key in ("alpha", "beta"))


@pytest.fixture(scope="module")
def lm():
    return tiny_model()


def start(client, text, headers, status=201):
    body = {"turns": [{"user": text, "assistant": ""}]}
    response = client.post(SESSIONS, json=body, headers=headers)
    assert response.status_code == status, response.text
    return response.json()


def test_a_directory_has_one_server_at_a_time(lm, tmp_path):
    with (
        client_of(lm, sessions=tmp_path),
        pytest.raises(RequestError, match="another uses"),
    ):
        app_of(lm, sessions=tmp_path)
    with client_of(lm, sessions=tmp_path) as client:
        assert client.get(SESSIONS).status_code == 200


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes of files")
def test_conversations_are_their_users_alone_to_read(lm, tmp_path):
    with client_of(lm, sessions=tmp_path / "sessions") as client:
        name = start(client, "a", {})["id"]
        modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "sessions").iterdir()]
        assert (tmp_path / "sessions" / f"{name}.json").exists()
        assert set(modes) == {0o600}
        assert (tmp_path / "sessions").stat().st_mode & 0o777 == 0o700


def test_the_bytes_of_a_key_and_of_all_are_bounded(lm, tmp_path):
    told = {
        "sessions": tmp_path,
        "key_digests": frozenset(map(key_digest, ("alpha", "beta"))),
        "owner_sessions_bytes": 4000,
        "sessions_bytes": 5000,
    }
    text = "x" * 2000
    with client_of(lm, **told) as client:
        kept = start(client, text, ALPHA)
        assert start(client, text, ALPHA, 413)["error"]["code"] == "sessions_full"
        grown = {"user": text, "assistant": ""}
        path = f"{SESSIONS}/{kept['id']}"
        assert client.post(f"{path}/append", json=grown, headers=ALPHA).status_code == 413
        assert client.post(f"{path}/rollback", json={}, headers=ALPHA).json()["n_turns"] == 0
        start(client, text, ALPHA)
        start(client, text, BETA)
        assert start(client, "x" * 700, BETA, 507)["error"]["code"] == "sessions_full"
        assert client.delete(path, headers=ALPHA).status_code == 200
    with client_of(lm, **told) as client:  # what is there counts after a restart
        assert len(client.get(SESSIONS, headers=BETA).json()["data"]) == 1
        start(client, text, BETA, 413)
        start(client, text, ALPHA, 413)


def test_what_could_not_be_written_takes_no_room(lm, tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    with client_of(lm, sessions=tmp_path, owner_sessions_bytes=3000) as client:
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", refuse)
            start(client, "x" * 2000, {}, 507)
        start(client, "x" * 2000, {})
    assert os.listdir(tmp_path).count(".lock") == 1

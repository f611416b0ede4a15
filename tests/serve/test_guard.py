"""Who may talk to the server."""

import pytest

from tests.generate.tiny import tiny_model
from tests.serve.client import client_of
from xplm.errors import RequestError
from xplm.serve.guard import key_digest, read_keys


@pytest.fixture(scope="module")
def client():
    told = {"hosts": frozenset({"my.box"}), "origins": frozenset({"https://example.org"})}
    with client_of(tiny_model(), **told) as client:
        yield client


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("192.168.1.7", 200),
        ("my.box:8000", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("evil.example@localhost", 403),
        ("", 403),
    ],
)
def test_a_name_that_others_can_point_here_is_refused(client, host, status):
    assert client.get("/v1/models", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8000", 200),
        ("https://example.org", 200),
        ("http://localhost:9000", 403),
        ("https://evil.example", 403),
        ("https://example.org.evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_a_web_page_from_elsewhere_is_refused(client, origin, status):
    headers = {"host": "localhost:8000", "origin": origin}
    for path in ("/tokenize", "/v1/completions"):
        body = {"prompt": "a", "max_tokens": 1}
        response = client.post(path, json=body, headers=headers)
        assert response.status_code == status
        is_told = origin == "https://example.org"
        assert response.headers.get("access-control-allow-origin") == (origin if is_told else None)
        assert response.headers["x-content-type-options"] == "nosniff"


def test_a_browser_that_asks_first_is_told(client):
    asked = {"access-control-request-method": "POST"}
    told = client.options("/v1/completions", headers=asked | {"origin": "https://example.org"})
    assert told.status_code == 204
    assert "POST" in told.headers["access-control-allow-methods"]
    own = client.options("/v1/completions", headers=asked)
    assert "access-control-allow-methods" not in own.headers
    evil = client.options("/v1/completions", headers=asked | {"origin": "https://evil.example"})
    assert evil.status_code == 403


def test_keys_are_asked_for_and_keep_beginnings_apart(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# mine\nalpha\n\n  beta \n")
    keys = read_keys(path)
    assert keys == {key_digest("alpha"), key_digest("beta")}
    body = {"prompt": list(range(2, 152)), "max_tokens": 1}
    with client_of(tiny_model(), key_digests=keys) as client:
        for headers in ({}, {"authorization": "Bearer gamma"}, {"authorization": "Basic alpha"}):
            refused = client.post("/v1/completions", json=body, headers=headers)
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
            assert client.get("/metrics", headers=headers).status_code == 401
            assert client.get("/health", headers=headers).status_code == 200

        def reused(key):
            headers = {"authorization": f"Bearer {key}"}
            answer = client.post("/v1/completions", json=body, headers=headers).json()
            return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

        assert [reused(key) for key in ("alpha", "beta", "alpha", "beta")] == [0, 0, 128, 128]


@pytest.mark.parametrize("key", ["schlüssel", "a\tb", "a\x7f"])
def test_a_key_that_no_header_can_hold_is_refused_by_its_line(tmp_path, key):
    path = tmp_path / "keys"
    path.write_text(f"# clé\nalpha\n{key}\n", encoding="utf-8")
    with pytest.raises(RequestError, match=r"printable ASCII characters; line 3 of"):
        read_keys(path)


@pytest.mark.parametrize("content", ["", "# none\n", None])
def test_a_file_without_keys_is_refused(tmp_path, content):
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RequestError, match="a file of API keys must"):
        read_keys(path)

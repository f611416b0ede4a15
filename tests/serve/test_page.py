"""The page at `/`: its files, and what a browser is told about them."""

import re

import pytest

from tests.generate.tiny import tiny_model
from tests.paths import ROOT
from tests.serve.client import client_of
from xplm.serve.guard import key_digest

FOLDER = ROOT / "xplm" / "serve" / "page"
FILES = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
MODULES = sorted(name for name in FILES if name.endswith(".js"))
TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
MAX_LINES = 400


@pytest.fixture(scope="module")
def client():
    with client_of(tiny_model()) as client:
        yield client


def path_of(name):
    return "/" if name == "index.html" else f"/page/{name}"


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_file_is_served_as_what_it_is(client, name):
    response = client.get(path_of(name))
    assert response.status_code == 200
    assert response.content == (FOLDER / name).read_bytes()
    kind = response.headers["content-type"].partition(";")[0]
    assert kind == TYPES[name.rpartition(".")[2]]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["referrer-policy"] == "no-referrer"
    head = client.head(path_of(name))
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_policy_allows_the_pages_own_files_alone(client, name):
    policy = client.get(path_of(name)).headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    own = {"script-src", "style-src", "img-src", "connect-src"}
    assert {rule: sources for rule, sources in rules.items() if sources == "'self'"}.keys() == own
    for rule in ("default-src", "base-uri", "form-action", "frame-ancestors", "trusted-types"):
        assert rules.pop(rule) == "'none'"
    assert rules.pop("require-trusted-types-for") == "'script'"
    assert rules.keys() == own


def test_a_browser_that_has_a_file_is_not_sent_it_again(client):
    first = client.get("/page/main.js")
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        again = client.get("/page/main.js", headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
        assert "content-security-policy" in again.headers
    assert client.get("/page/main.js", headers={"if-none-match": '"other"'}).status_code == 200
    assert client.get("/page/api.js").headers["etag"] != tag


@pytest.mark.parametrize(
    "path", ["/page/", "/page/index.html", "/page/../app.py", "/page/%2e%2e/app.py", "/page/x.js"]
)
def test_nothing_else_is_served(client, path):
    assert client.get(path).status_code == 404


def test_the_page_takes_no_key_and_what_it_shows_does():
    with client_of(tiny_model(), key_digests=frozenset({key_digest("alpha")})) as client:
        assert client.get("/").status_code == 200
        assert client.get("/page/main.js").status_code == 200
        assert client.get("/v1/sessions").status_code == 401
        assert client.get("/", headers={"host": "elsewhere.example"}).status_code == 403


def test_every_file_that_is_named_is_there_and_none_is_left_over():
    index = FILES["index.html"]
    named = set(re.findall(r'(?:src|href)="page/([^"]+)"', index))
    for name in MODULES:
        imported = set(re.findall(r'from "\./([^"]+)"', FILES[name]))
        assert imported <= set(FILES), name
        named |= imported
    assert named | {"index.html"} == set(FILES)
    others = re.findall(r'(?:src|href)="(?!page/)([^"]+)"', index)
    assert others == ["#message"]


def test_every_element_that_is_looked_up_is_in_the_index():
    ids = set(re.findall(r' id="([^"]+)"', FILES["index.html"]))
    looked_up = {name for text in FILES.values() for name in re.findall(r'find\("([^"]+)"\)', text)}
    assert looked_up
    assert looked_up <= ids


def test_nothing_is_inline_and_nothing_comes_from_elsewhere():
    index = FILES["index.html"]
    assert "<style" not in index
    assert not re.search(r"\s(style|on\w+)=", index)
    assert re.findall(r"<script[^>]*>(.*?)</script>", index, re.DOTALL) == [""]
    for name in MODULES:
        assert not re.search(r"fetch\(\s*[\"'`]https?:|from \"(?!\./)|import\(", FILES[name]), name
    for name in ("style.css", "turns.css"):
        assert "url(" not in FILES[name]
        assert "@import" not in FILES[name]


@pytest.mark.parametrize("name", MODULES)
def test_no_text_is_parsed_as_markup(name):
    sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc|\beval\b|Function\("
    assert not re.search(sinks, FILES[name])


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_file_is_long(name):
    assert len(FILES[name].splitlines()) <= MAX_LINES

"""The page in headless Chromium: by mouse and keyboard, on a phone, in the dark, and against what a model may say."""

import json
import shutil
import time
from contextlib import contextmanager

import httpx
import pytest

from tests.generate.thinkers import FORMS, thinking_model
from tests.generate.tiny import tiny_model
from tests.serve.client import live, saying, slowed
from xplm.serve.guard import key_digest

pytestmark = pytest.mark.nightly
pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
PATIENCE_SECONDS = 60.0
SESSIONS = "/v1/sessions"

HOSTILE = (
    "**bold** <script>window.pwned=1</script><img src=x onerror=window.pwned=1> "
    "[go](javascript:window.pwned=1) [data](data:text/html,x) [site](https://e.org/a) `<b>`"
)


@pytest.fixture(scope="module")
def driver():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None or shutil.which("chromedriver") is None:
        pytest.skip("Chromium and its driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for flag in (*FLAGS, "--window-size=1200,860"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def lm():
    return tiny_model(max_position_embeddings=2048)


class Page:
    """The page in a browser, and the server behind it."""

    def __init__(self, driver, address):
        self.driver, self.http = driver, httpx.Client(base_url=address)
        driver.get(address)
        driver.execute_script("localStorage.clear(); sessionStorage.clear()")
        sampling = json.dumps({"temperature": 0, "max_tokens": 8})
        driver.execute_script("localStorage.setItem('xplm-sampling', arguments[0])", sampling)
        driver.get(address)
        self.address = address

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def button(self, text, within="body"):
        (found,) = [b for b in self.all(f"{within} button") if b.text == text and b.is_displayed()]
        return found

    def click(self, text, within="body"):
        self.driver.execute_script("arguments[0].click()", self.button(text, within))

    def press(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    def until(self, condition):
        end = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < end, self.one("body").text
            time.sleep(0.02)

    def spoken(self):
        return [line.get_attribute("textContent") for line in self.all("#spoken p")]

    def is_quiet(self):
        return self.one("#send").is_displayed() and not self.all(".growing")

    def say(self, text, n_turns=1):
        self.one("#message").send_keys(text, Keys.ENTER)
        self.until(lambda: len(self.all(".turn")) == n_turns and self.is_quiet())

    def set_tokens(self, n):
        self.click("Settings")
        self.driver.execute_script("document.getElementById('max_tokens').value = arguments[0]", n)
        self.click("Settings")

    def sessions(self):
        return self.http.get(SESSIONS).json()["data"]

    def said(self, name=None):
        name = name or self.sessions()[0]["id"]
        return [turn["user"] for turn in self.http.get(f"{SESSIONS}/{name}").json()["turns"]]

    def module(self, name, expression):
        """What an expression gives in which `m` is a module of the page."""
        script = (
            f"const done = arguments[0]; import('/page/{name}').then((m) => done({expression}))"
        )
        return self.driver.execute_async_script(script)


@contextmanager
def page_of(driver, lm, tmp_path, **settings):
    with live(lm, sessions=tmp_path / "sessions", **settings) as (address, _):
        page = Page(driver, address)
        page.until(lambda: page.all("#model"))
        try:
            yield page
        finally:
            page.http.close()
            driver.get("about:blank")  # which leaves the server's connections


@pytest.fixture
def page(driver, lm, tmp_path):
    with page_of(driver, lm, tmp_path) as page:
        page.until(lambda: page.one("#model").text == "tiny")
        yield page


def test_a_link_says_where_it_leads(page, lm):
    page.set_tokens(400)
    links = {
        "[https://bank.org](https://e.org/a)": "https://bank.org (e.org)",
        "[https://e.org.bank.org](https://e.org/b)": "https://e.org.bank.org (e.org)",
        "[see e.org](https://e.org/c)": "see e.org (e.org)",
        "[https://e.org/d](https://e.org/e)": "https://e.org/d",
        "https://bank.org@e.org/f": "https://bank.org@e.org/f (e.org)",
        "https://e.org/g": "https://e.org/g",
    }
    with saying(lm.tokenizer, "\n\n".join(links)):
        page.say("links")
    assert [one.text for one in page.all(".reply p")] == list(links.values())


def test_a_models_text_is_never_markup(page, lm):
    page.set_tokens(400)
    with saying(lm.tokenizer, HOSTILE):
        page.say("<img src=x onerror=window.pwned=1>")
    assert page.driver.execute_script("return window.pwned ?? null") is None
    assert page.all("#turns script, #turns img, #chats img, #spoken img") == []
    (link,) = page.all("#turns a")
    assert link.get_attribute("href") == "https://e.org/a"
    assert "noopener" in link.get_attribute("rel")
    assert page.one(".reply strong").text == "bold"
    assert page.one(".reply code").text == "<b>"
    shown = page.one(".reply").text
    assert "<script>window.pwned=1</script><img src=x onerror=window.pwned=1>" in shown
    assert "[go](javascript:window.pwned=1)" in shown
    assert "site (e.org)" in shown
    assert page.one(".user .words").text == "<img src=x onerror=window.pwned=1>"
    assert page.one("#title").text == "<img src=x onerror=window.pwned=1>"


def test_a_reply_is_shown_and_read_out_as_it_grows(page, lm):
    page.set_tokens(60)
    with slowed(0.05), saying(lm.tokenizer, "One sentence. Another one, which is longer."):
        page.one("#message").send_keys("hi", Keys.ENTER)
        page.until(lambda: page.spoken() == ["One sentence."])
        assert page.one("#stop").is_displayed()
        assert page.one(".turn").get_attribute("aria-busy") == "true"
        page.until(page.is_quiet)
    assert page.one(".reply").text == "One sentence. Another one, which is longer."
    assert page.spoken() == ["One sentence.", "Another one, which is longer."]
    assert page.one("#spoken").get_attribute("aria-live") == "polite"
    assert "tokens/s" in page.one(".figures").text
    assert "prompt tokens reused" in page.one(".figures").text


def test_thoughts_are_folded(driver, tmp_path):
    thinker = thinking_model(FORMS["tags, tokens of the text"])
    with page_of(driver, thinker, tmp_path, cache_bytes=1 << 24) as page:
        page.set_tokens(40)
        with saying(thinker.tokenizer, "<think>\n<b>so</b>\n</think>\n\nyes<|im_end|>"):
            page.say("hi")
        assert page.one(".reply").text == "yes"
        assert page.one(".thoughts").get_attribute("open") is None
        assert not page.one(".thought").is_displayed()
        page.driver.execute_script("document.querySelector('summary').focus()")
        page.press(Keys.ENTER)
        page.until(lambda: page.one(".thought").is_displayed())
        assert page.one(".thought").text == "<b>so</b>"


def test_enter_sends_shift_enter_begins_a_line_and_escape_stops(page):
    page.set_tokens(600)
    assert page.driver.switch_to.active_element == page.one("#message")
    with slowed(0.03):
        page.one("#message").send_keys("a", Keys.SHIFT + Keys.ENTER + Keys.NULL, "b")
        assert page.one("#message").get_attribute("value") == "a\nb"
        assert page.all(".turn") == []
        page.press(Keys.ENTER)
        page.until(lambda: page.all(".reply > *"))
        page.press(Keys.ESCAPE)
        page.until(page.is_quiet)
    assert page.said() == ["a\nb"]
    (turn,) = page.http.get(f"{SESSIONS}/{page.sessions()[0]['id']}").json()["turns"]
    assert turn["assistant"]
    assert turn["finish_reason"] is None
    assert "not generated to its end" in page.one(".figures").text


def test_an_earlier_message_is_edited_and_what_follows_is_replaced(page):
    for n, text in enumerate(("a", "b", "c"), 1):
        page.say(text, n)
    page.driver.execute_script("document.querySelectorAll('.edit')[1].focus()")
    page.press(Keys.ENTER)
    assert page.driver.switch_to.active_element.get_attribute("value") == "b"
    page.press("!", Keys.ENTER)
    page.until(lambda: len(page.all(".turn")) == 2 and page.is_quiet())
    assert page.said() == ["a", "b!"]
    page.click("Retry", ".turn:last-child")
    page.until(page.is_quiet)
    assert page.said() == ["a", "b!"]


def test_a_chat_is_rolled_back_forked_renamed_and_deleted(page):
    for n, text in enumerate(("a", "b", "c"), 1):
        page.say(text, n)
    (origin,) = page.sessions()
    page.click("Roll back to here", ".turn:nth-child(2)")
    page.press(Keys.ENTER)
    page.until(lambda: len(page.all(".turn")) == 2)
    assert page.said() == ["a", "b"]

    page.click("Fork here", ".turn:nth-child(1)")
    page.until(lambda: len(page.all(".turn")) == 1 and len(page.all("#chats li")) == 2)
    page.say("d", 2)
    assert page.said(origin["id"]) == ["a", "b"]
    (fork,) = [session for session in page.sessions() if session["parent"]]
    assert page.said(fork["id"]) == ["a", "d"]

    page.click("Rename", "#chats li.current")
    page.press("Rain", Keys.ENTER)
    page.until(lambda: page.one("#title").text == "Rain")
    assert "Rain" in [session["title"] for session in page.sessions()]

    page.driver.refresh()
    page.until(lambda: page.one("#title").text == "Rain" and len(page.all(".turn")) == 2)
    page.click("Delete", "#chats li.current")
    page.click("Delete", "dialog")
    page.until(lambda: len(page.all("#chats li")) == 1)
    assert [session["id"] for session in page.sessions()] == [origin["id"]]


def test_under_each_token_are_its_rivals_and_whether_it_is_fragile(page):
    page.say("a")
    page.click("Tokens")
    tokens = page.all(".token")
    (turn,) = page.http.get(f"{SESSIONS}/{page.sessions()[0]['id']}").json()["turns"]
    assert len(tokens) == len(turn["tokens"]) > 3
    page.driver.execute_script("arguments[0].focus()", tokens[0])
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.driver.switch_to.active_element == tokens[2]
    assert len(page.all(".card .rival")) == 5
    assert "not measured" in page.one(".card").text
    page.press(Keys.ESCAPE)
    assert not page.one(".card").is_displayed()
    page.click("Find fragile tokens")
    page.until(lambda: "Measuring" not in page.one(".foot").text)
    (turn,) = page.http.get(f"{SESSIONS}/{page.sessions()[0]['id']}").json()["turns"]
    fragile = [token[4] for token in turn["tokens"]]
    assert None not in fragile
    assert [", fragile" in t.get_attribute("aria-label") for t in page.all(".token")] == fragile


def test_settings_reach_the_server_and_are_kept(page):
    page.click("Settings")
    page.one("#seed").send_keys("5")
    page.one("#system").send_keys("Be brief.", Keys.TAB)
    page.say("a")
    name = page.sessions()[0]["id"]
    assert page.http.get(f"{SESSIONS}/{name}").json()["system"] == "Be brief."
    stored = page.driver.execute_script("return localStorage.getItem('xplm-sampling')")
    assert json.loads(stored) == {"temperature": 0, "max_tokens": 8, "seed": 5}
    page.one("#temperature").send_keys("-1")
    page.one("#message").send_keys("b", Keys.ENTER)
    page.until(page.is_quiet)
    assert page.said() == ["a"]


def test_a_key_is_asked_for_and_stays_in_the_tab(driver, lm, tmp_path):
    with page_of(driver, lm, tmp_path, key_digests=frozenset({key_digest("alpha")})) as page:
        for key in ("wrong", "alpha"):
            page.until(lambda: page.all("#key"))
            page.one("#key").send_keys(key, Keys.ENTER)
            page.until(lambda: page.all("#key") == [] or "does not know" in page.one("dialog").text)
        page.until(lambda: page.all("dialog") == [])
        page.say("a")
        assert driver.execute_script("return sessionStorage.getItem('xplm-key')") == "alpha"
        assert "alpha" not in driver.execute_script("return JSON.stringify(localStorage)")
        driver.execute_script("sessionStorage.clear()")


def test_a_phone_in_the_dark_shows_all_of_it(page):
    page.say("a" * 200)
    command = page.driver.execute_cdp_cmd
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    command("Emulation.setDeviceMetricsOverride", size)
    command("Emulation.setEmulatedMedia", dark)
    try:
        width = page.driver.execute_script("return document.documentElement.scrollWidth")
        assert width == 360
        colour = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        assert max(page.driver.execute_script(colour)) < 64
        page.until(lambda: not page.one("#side").is_displayed())
        page.click("Chats")
        page.until(lambda: page.one("#side").is_displayed())
        page.press(Keys.ESCAPE)
        page.until(lambda: not page.one("#side").is_displayed())
        page.click("Tokens")
        page.driver.execute_script("[...document.querySelectorAll('.token')].at(-1).focus()")
        box = page.one(".card").rect
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
    finally:
        command("Emulation.clearDeviceMetricsOverride", {})
        command("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("piece", ["*a ", "[", "**a ", "`a``b", "- a\n\n", "> ", "***a", "[a](b "])
def test_the_work_of_markdown_grows_with_the_text_alone(page, piece):
    seconds = "performance.now() / 1000"
    script = f"(([a, b, c]) => [b - a, c - b])([{seconds}, (m.parse({{0}}), {seconds}), (m.parse({{1}}), {seconds})])"
    texts = [f"{json.dumps(piece)}.repeat({n})" for n in (10_000, 80_000)]
    page.module("markdown.js", f"(m.parse({texts[0]}), 0)")
    short, long = page.module("markdown.js", script.format(*texts))
    assert long < 8 * 4 * max(short, 0.01)  # as the square it would be 64 times as long


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("# a\n\nb\nc", ["heading", "paragraph"]),
        ("- a\n  - b\n- c\n\n1. d", ["list", "list"]),
        ("```py\n# a\n\nb", ["code"]),
        ("> a\n> b\n\n---", ["quote", "rule"]),
        ("| a | b |\n|---|:-:|\n| c | d |\ne", ["table", "paragraph"]),
    ],
)
def test_blocks_are_told_apart(page, text, kinds):
    given = json.dumps(text)
    assert page.module("markdown.js", f"m.parse({given}).map((block) => block.kind)") == kinds

"""A template that comes with a checkpoint can neither hang nor fill the machine."""

import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.text.hostile import hostile_templates
from xplm.errors import TemplateError
from xplm.text import render_worker, renderer
from xplm.text.chat import ChatTemplate
from xplm.text.render_protocol import CPU_SECONDS, DONE, MAX_CHARS, MEMORY_BYTES

MESSAGES = [{"role": "user", "content": "hi"}]
SLACK_SECONDS = 1.5  # the limit is to the next whole second, and the system looks at its ticks
SLACK_MIB = 64  # of program text, which the limit leaves out


class Usage:
    """What a child took."""

    cpu_seconds = 0.0
    peak_mib = 0.0


@contextmanager
def new_child() -> Iterator[Usage]:
    """A child that starts here, and ends; then its usage is there."""
    renderer._CHILD.end()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    renderer.start()
    process = renderer._CHILD._process
    assert process is not None
    usage, is_over = Usage(), threading.Event()

    def look() -> None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            return
        lines = dict(line.split(":", 1) for line in status.splitlines())
        if "VmHWM" in lines:  # a zombie has none
            usage.peak_mib = max(usage.peak_mib, int(lines["VmHWM"].split()[0]) / 1024)

    def watch() -> None:
        while not is_over.wait(0.005):
            look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield usage
    finally:
        is_over.set()
        watcher.join()
        look()
        renderer._CHILD.end()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
        usage.cpu_seconds = user + system


def outcome(source: str) -> str:
    """The text of a template, or its error; nothing else may come."""
    try:
        text = ChatTemplate(source).render(MESSAGES)
    except TemplateError as error:
        return str(error)
    assert len(text) <= MAX_CHARS
    return "rendered"


SAMPLE = {
    "size of 'a' * 10 ** 10": "takes more than 512 MiB of memory",
    "size of '%10000000000d' % 1": "takes more than 512 MiB of memory",
    "size of 'ab' * 10 ** 7": "at most 16777216 characters",
    "compiling parentheses": "does not compile",
    "endless macro": "maximum recursion depth",
    "size of [-10 ** 15] | map(' spend') | list": "No filter named ' spend'",
}


def test_hostile_templates_end(monkeypatch: pytest.MonkeyPatch) -> None:
    templates = hostile_templates()
    for name, said in SAMPLE.items():
        assert said in outcome(templates[name]), name
    monkeypatch.setattr(renderer, "CPU_SECONDS", 0)  # the next whole second
    assert "takes more than 0 s of CPU time" in outcome(templates["searching a range"])
    monkeypatch.undo()
    assert ChatTemplate("{{ messages[0].content }}").render(MESSAGES) == "hi"


def test_memory_that_an_earlier_template_holds_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def render(request: bytes) -> bytes:
        if render_worker._compile.cache_info().currsize:
            raise MemoryError
        return DONE + request

    monkeypatch.setattr(render_worker, "_render", render)
    render_worker._compile("an earlier template")
    assert render_worker._answer(b"x") == DONE + b"x"


def test_a_long_chat_is_affordable(monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "{% for m in messages %}{% if messages | length > 1 and m.role in ['user', 'assistant'] %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content | trim + '<|im_end|>' ~ '\n' }}{% endif %}{% endfor %}"
    )
    messages = [{"role": "user", "content": "word " * 100}] * 1300  # some 130,000 tokens
    with new_child() as usage:
        assert len(ChatTemplate(source).render(messages)) == 1300 * (12 + 4 + 1 + 499 + 10 + 1)
    assert usage.cpu_seconds < CPU_SECONDS / 5


@pytest.mark.nightly
def test_every_hostile_template_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(renderer, "CPU_SECONDS", 0)
    templates = hostile_templates()
    assert len(templates) > 300
    most = Usage()
    for name, source in templates.items():
        with new_child() as usage:
            outcome(source)
        assert usage.cpu_seconds < 1 + SLACK_SECONDS, name
        assert usage.peak_mib < MEMORY_BYTES / 2**20 + SLACK_MIB, name
        most.cpu_seconds = max(most.cpu_seconds, usage.cpu_seconds)
        most.peak_mib = max(most.peak_mib, usage.peak_mib)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{len(templates)} hostile templates took at most {most.cpu_seconds:.2f} s of CPU time "
            f"(with a limit of 1 s) and {most.peak_mib:.0f} MiB\n"
        )


@pytest.mark.nightly
def test_the_limit_of_cpu_time() -> None:
    with new_child() as usage:
        assert f"takes more than {CPU_SECONDS} s of CPU time" in outcome("{{ 9 ** (9 ** 9) }}")
    assert CPU_SECONDS <= usage.cpu_seconds < CPU_SECONDS + SLACK_SECONDS

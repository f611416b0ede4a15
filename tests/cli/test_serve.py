"""`xplm serve`, as a process."""

import json
import re
import signal
import socket
import subprocess
import sys

import pytest

from xplm.backend import DeviceMemory
from xplm.cli.flags import ModelFlags, WhereFlags
from xplm.cli.output import Output, OutputFlags
from xplm.cli.serve import order_invariant, parse_size, share_of
from xplm.errors import RequestError

httpx = pytest.importorskip("httpx", reason='the extra "dev" is not installed')
for library in ("starlette", "uvicorn", "msgspec", "prometheus_client", "llguidance"):
    pytest.importorskip(library, reason='the extra "serve" is not installed')


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("2GiB", 2 << 30), ("512M", 512 << 20), ("1.5 kb", 1536), ("1000", 1000), ("3B", 3)],
)
def test_sizes(text, n_bytes):
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "much", "-1GiB", "0", "1 XiB", "0.1B"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(RequestError, match="a size must be"):
        parse_size(text)


def test_flags_are_checked_before_the_model_is_loaded(xplm, tmp_path):
    outcome = xplm("serve", "--model", tmp_path / "none", "--cache-memory", "much")
    assert "a size must be" in outcome.error
    outcome = xplm("serve", "--model", tmp_path / "none", "--api-key-file", tmp_path / "none")
    assert "a file of API keys" in outcome.error


def test_keys_and_values_have_a_share_of_what_is_free():
    assert share_of(DeviceMemory(0, 0, 16 << 30, free=8 << 30)) == 2 << 30
    assert share_of(DeviceMemory(0, 0, 16 << 30)) is None


@pytest.mark.parametrize(
    ("where", "policy", "is_off", "kernels", "is_told"),
    [
        ({}, "fp32", False, "invariant", False),
        ({}, "bf16", False, "invariant", False),
        ({}, "fp32", True, "fused", False),
        ({"kernels": "portable"}, "fp32", False, "portable", False),
        ({"backend": "strict"}, "fp32", False, "fused", True),
        ({}, "fp8", False, "fused", True),
    ],
)
def test_replies_are_invariant_where_they_can_be(where, policy, is_off, kernels, is_told, capsys):
    flags = ModelFlags(where=WhereFlags(**where), policy=policy)
    out = Output(OutputFlags())
    assert order_invariant(flags, out, is_off=is_off).kernels == kernels
    assert ("cannot promise" in " ".join(capsys.readouterr().err.split())) == is_told


def test_the_mode_is_not_asked_for_and_turned_off():
    with pytest.raises(RequestError, match="leave one out"):
        order_invariant(
            ModelFlags(where=WhereFlags(invariant=True)), Output(OutputFlags()), is_off=True
        )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to send")
def test_sigterm_lets_a_reply_finish(tiny_directory, tmp_path):
    command = [
        sys.executable, "-m", "xplm", "serve", "--model", str(tiny_directory), "--port", "0",
        "--served-name", "tiny", "--sessions", str(tmp_path), "--kernels", "portable",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = re.search(r"http://\S+", server.stdout.readline())[0]
            body = {"prompt": "hello", "max_tokens": 200, "ignore_eos": True, "stream": True}
            url = f"{address}/v1/completions"
            with httpx.stream("POST", url, json=body, timeout=60) as response:
                lines = response.iter_lines()
                next(lines)
                server.send_signal(signal.SIGTERM)
                *chunks, done = [line for line in lines if line]
            assert done == "data: [DONE]"
            last = json.loads(chunks[-1].removeprefix("data: "))
            assert last["choices"][0]["finish_reason"] == "length"
            assert server.wait(timeout=30) == 0
        finally:
            server.kill()


FAILING = """
import sys, threading
from xplm.cli.main import main
from xplm.generate.scheduler import Scheduler

at_start = Scheduler.step

def step(self):
    if threading.current_thread() is threading.main_thread():
        return at_start(self)
    raise AssertionError("a bug")

Scheduler.step = step
sys.exit(main(sys.argv[1:]))
"""


def test_a_bug_ends_the_process_with_an_error(tiny_directory, tmp_path):
    command = [
        sys.executable, "-c", FAILING, "serve", "--model", str(tiny_directory), "--port", "0",
        "--sessions", str(tmp_path), "--kernels", "portable",
    ]  # fmt: skip
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as server:
        try:
            address = re.search(r"http://\S+", server.stdout.readline())[0]
            refused = httpx.post(f"{address}/v1/completions", json={"prompt": "a"}, timeout=60)
            assert refused.status_code == 503
            assert server.wait(timeout=30) == 1
            assert "AssertionError: a bug" in server.stderr.read()
        finally:
            server.kill()


def test_an_address_that_is_taken_is_refused(xplm, tiny_directory, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = xplm(
            "serve", "--model", tiny_directory, "--port", port, "--sessions", tmp_path, "--quiet"
        )
    assert outcome.code == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in outcome.stderr

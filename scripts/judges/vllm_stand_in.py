"""A pytest plugin that stands in for what vLLM's test of batch invariance imports, its server above all."""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import openai

from judges.suites import free_port

START_SECONDS = 120
STOP_SECONDS = 20


class RemoteOpenAIServer:
    """A server of its own, while a `with` statement lasts."""

    def __init__(self, model: str, arguments: Sequence[str]) -> None:
        """It does not run yet.

        Args:
            model: the model, and its name to clients.
            arguments: of vLLM's server.
        """
        self._model, self._flags, self._port = model, serve_flags(arguments), free_port()

    def __enter__(self) -> "RemoteOpenAIServer":
        """Start it."""
        self._directory = tempfile.TemporaryDirectory()
        sessions = Path(self._directory.name) / "sessions"
        where = json.loads(os.environ["XPLM_SERVE_FLAGS"])
        command = ["--model", self._model, "--port", str(self._port), "--sessions", str(sessions)]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "xplm", "serve", *command, *where, *self._flags]
        )
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._port)):
                return self
            time.sleep(0.1)
        self._process.kill()
        raise RuntimeError("xplm serve did not start")

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(STOP_SECONDS)
        self._directory.cleanup()

    def get_client(self) -> openai.OpenAI:
        """OpenAI's client of it."""
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self._port}/v1", api_key="none")


def serve_flags(arguments: Sequence[str]) -> list[str]:
    """vLLM's flags as those of `xplm serve`: there is one kind of attention here, and one device.

    Raises:
        SystemExit: a flag has no counterpart.
    """
    parser = argparse.ArgumentParser(prog="vllm serve", allow_abbrev=False)
    parser.add_argument("--max-model-len")
    parser.add_argument("--max-num-seqs")
    parser.add_argument("--attention-backend")
    parser.add_argument("-tp", choices=("1",))
    flags = parser.parse_args(arguments)
    given = {"--context": flags.max_model_len, "--max-rows": flags.max_num_seqs}
    return [word for name, value in given.items() if value for word in (name, value)]


def module(name: str, **members: Any) -> None:
    """Have a module found under a name."""
    made = ModuleType(name)
    vars(made).update(members)
    sys.modules[name] = made


class Converter:
    """Tells what kind of attention a model has: not DeepSeek's, for those served here."""

    def __init__(self, *_: object) -> None:
        """Any model will do."""

    def is_deepseek_mla(self) -> bool:
        """No."""
        return False


DEVICE = SimpleNamespace(
    is_cuda=lambda: True, is_xpu=lambda: False, has_device_capability=lambda capability: True
)
"""One on which vLLM promises what is tested; on others its test skips itself."""

CONFIG = SimpleNamespace(get_text_config=lambda: SimpleNamespace(layer_types=None))

module("tests.utils", RemoteOpenAIServer=RemoteOpenAIServer)
module("vllm.envs", VLLM_BATCH_INVARIANT=False)
module("vllm.platforms", current_platform=DEVICE)
module("vllm.transformers_utils.config", get_config=lambda *_, **__: CONFIG)
module(
    "vllm.transformers_utils.model_arch_config_convertor", ModelArchConfigConvertorBase=Converter
)
module("vllm.triton_utils", HAS_TRITON=False)
module("vllm.v1.attention.backends.fa_utils", flash_attn_supports_mla=lambda: False)
for package in ("tests", "vllm", "vllm.transformers_utils", "vllm.v1", "vllm.v1.attention"):
    module(package)
module("vllm.v1.attention.backends")
vars(sys.modules["vllm"])["envs"] = sys.modules["vllm.envs"]

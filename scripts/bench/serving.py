"""A server in a process of its own, and clients of it: HTTP/1.1 by asyncio alone, a connection a request."""

import asyncio
import json
import re
import socket
from collections.abc import Sequence
from time import perf_counter, sleep
from typing import Any, NamedTuple

from bench.processes import fail, start

HOST = "127.0.0.1"
STARTUP_SECONDS = 600
RETRY_SECONDS = 0.1


class Streamed(NamedTuple):
    """A reply that came in parts."""

    asked: float  # when, by `perf_counter`
    times: tuple[float, ...]  # when each of its parts came
    parts: tuple[str, ...]  # as JSON: text and, where they were asked for, log-probabilities

    @property
    def first_seconds(self) -> float:
        """From the request to its first token."""
        return self.times[0] - self.asked

    @property
    def gaps(self) -> list[float]:
        """Seconds between its parts."""
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]


class Server:
    """`xplm serve` on a free port."""

    def __init__(self, options: Sequence[str], threads: int) -> None:
        """Start it, and wait until it answers."""
        with socket.socket() as free:
            free.bind((HOST, 0))
            self.port = free.getsockname()[1]
        command = ["-m", "xplm", "serve", "--port", str(self.port), *options]
        self._process = start(command, threads)
        for _ in range(int(STARTUP_SECONDS / RETRY_SECONDS)):
            sleep(RETRY_SECONDS)
            if self._process.poll() is not None:
                fail(command, self._process.returncode)
            try:
                asyncio.run(self.get("/health"))
            except (ConnectionError, OSError):
                continue
            return
        fail(command, -1)

    def stop(self) -> None:
        """End it, once replies have ended."""
        self._process.terminate()
        self._process.wait()

    @property
    def resident_bytes(self) -> int:
        """Memory that the process has, on Linux."""
        with open(f"/proc/{self._process.pid}/status", encoding="ascii") as status:
            kib = re.search(r"VmRSS:\s+(\d+) kB", status.read())
        assert kib, "a running process has memory"
        return int(kib.group(1)) * 1024

    async def metric(self, name: str) -> float:
        """A figure of /metrics."""
        found = re.search(rf"^{name} (\S+)$", await self.get("/metrics"), re.MULTILINE)
        assert found, f"the server counts {name}"
        return float(found.group(1))

    async def get(self, path: str) -> str:
        """What it answers."""
        reader, writer = await self._send("GET", path, b"")
        body = await reader.read()
        writer.close()
        return body.decode().partition("\r\n\r\n")[2]

    async def complete(self, request: dict[str, Any], leave_after: int | None = None) -> Streamed:
        """The reply to a streamed completion; of one that is left, the first parts.

        Raises:
            ConnectionError: the server answers otherwise than with status 200, or ends early.
        """
        body = json.dumps(request | {"stream": True}).encode()
        asked, times, parts = perf_counter(), [], []
        reader, writer = await self._send("POST", "/v1/completions", body)
        try:
            while line := await reader.readline():
                if line.startswith(b"HTTP/") and b" 200 " not in line:
                    raise ConnectionError((line + await reader.read()).decode())
                if not line.startswith(b"data: "):
                    continue
                if line == b"data: [DONE]\n":
                    return Streamed(asked, tuple(times), tuple(parts))
                part = json.loads(line.removeprefix(b"data: "))
                if "error" in part:
                    raise ConnectionError(part["error"]["message"])
                for choice in part["choices"]:
                    if choice["text"] or choice["logprobs"] or choice["finish_reason"]:
                        times.append(perf_counter())
                        parts.append(json.dumps([choice["text"], choice["logprobs"]]))
                if leave_after is not None and len(times) >= leave_after:
                    return Streamed(asked, tuple(times), tuple(parts))
        finally:
            writer.close()
        raise ConnectionError("a stream ended before its end was said")

    async def _send(
        self, method: str, path: str, body: bytes
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(HOST, self.port)
        head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        return reader, writer

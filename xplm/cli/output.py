"""What a command prints: text and results on stdout, everything about them on stderr."""

import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xplm.backend import PROGRESS
from xplm.cli.waiting import Waiting
from xplm.errors import one_line
from xplm.generate.result import Timings
from xplm.text.reply_parts import Part

if TYPE_CHECKING:
    from rich.console import Console

    from xplm.generate.stream import TextStream

BIDIRECTIONAL = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))

CONTROLS = dict.fromkeys(
    c for c in (*range(0x20), *range(0x7F, 0xA0), *BIDIRECTIONAL) if chr(c) not in "\n\t"
)
"""Characters that could move a terminal's cursor, or show text in another order than it has."""

_SPELLED_OUT = (*CONTROLS, *range(0xD800, 0xE000))  # surrogates too, which UTF-8 has not

ESCAPES = {c: f"\\x{c:02x}" if c < 0x100 else f"\\u{c:04x}" for c in _SPELLED_OUT}
"""The same characters made visible."""

JSON_ESCAPES = {c: f"\\u{c:04x}" for c in _SPELLED_OUT}
"""The same characters as JSON spells them."""


@dataclass(frozen=True)
class OutputFlags:
    """What is printed, and how."""

    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")
    ] = False
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress and no timings.")] = False


class Output:
    """Where a command writes. With --json only `result` reaches stdout; with --quiet `note` is silent."""

    def __init__(self, flags: OutputFlags) -> None:
        """Follow the user's flags."""
        self.flags = flags
        PROGRESS.setLevel(logging.DEBUG)
        PROGRESS.handlers = [_NoteHandler(self)]

    @cached_property
    def stderr(self) -> "Console":
        """The console; a quiet command has no need of rich, which is slow to import."""
        from rich.console import Console

        return Console(stderr=True, highlight=False, soft_wrap=True)

    @cached_property
    def waiting(self) -> Waiting:
        """What is shown of work that takes a while."""
        return Waiting(self)

    @property
    def shows_progress(self) -> bool:
        """Whether a progress bar would be seen."""
        return not self.flags.quiet and self.stderr.is_terminal

    def text(self, piece: str) -> None:
        """Show a piece of text at once, with no line end of its own."""
        if self.flags.as_json:
            return
        self.waiting.clear()
        if sys.stdout.isatty():
            piece = piece.translate(CONTROLS)
        sys.stdout.write(piece)
        sys.stdout.flush()

    def thought(self, piece: str) -> None:
        """Show a piece of what a model thinks, dimmed and apart from its answer, with no line end of its own."""
        if not (self.flags.as_json or self.flags.quiet):
            from rich.text import Text

            self.waiting.clear()
            self.stderr.print(Text(piece.translate(ESCAPES), style="dim"), end="")

    def parts(self, stream: "TextStream") -> Iterator[Part]:
        """Show a reply as it comes, thoughts apart, and hand on its parts."""
        is_thinking = False
        for part in stream.parts():
            if is_thinking and part.kind != "reasoning":
                self.thought("\n\n")
            is_thinking = part.kind == "reasoning"
            match part.kind:
                case "content":
                    self.text(part.text)
                case "reasoning" | "call":
                    self.thought(part.text or f"{part.recipient} ")
            yield part
        if is_thinking:
            self.thought("\n")

    def line(self, text: str = "") -> None:
        """Show a line."""
        self.text(text + "\n")

    def note(self, text: str) -> None:
        """Say something about the work, dimmed."""
        if not self.flags.quiet:
            from rich.text import Text

            self.stderr.print(Text(text.translate(ESCAPES), style="dim"))

    def timings(self, timings: Timings) -> None:
        """Say how fast a reply was."""
        prompt = f"prompt: {timings.prefill_tokens} tokens in {timings.prefill_seconds:.2f} s"
        if timings.reused_tokens:
            prompt += f", {timings.reused_tokens} reused"
        reply = f"{timings.decode_tokens_per_s:.1f} tokens/s; " if timings.decode_tokens else ""
        self.note(reply + prompt + ("; compiling included" if timings.compilations else ""))

    def result(self, values: Mapping[str, Any]) -> None:
        """Print the JSON object, if it is asked for. A number that is not finite, which JSON lacks, is null."""
        self.waiting.clear()
        if self.flags.as_json:
            text = json.dumps(plain(values), ensure_ascii=False, allow_nan=False)
            print(text.translate(JSON_ESCAPES), flush=True)


@contextmanager
def progress_as_before() -> Iterator[None]:
    """Whoever called a command from Python has the progress logger as it was afterwards."""
    handlers, level = PROGRESS.handlers, PROGRESS.level
    try:
        yield
    finally:
        for handler in PROGRESS.handlers:
            handler.close()
        PROGRESS.handlers = handlers
        PROGRESS.setLevel(level)


class _NoteHandler(logging.Handler):
    """Shows what a backend makes the user wait for, where it is seen."""

    def __init__(self, out: Output) -> None:
        super().__init__()
        self._out = out

    def emit(self, record: logging.LogRecord) -> None:
        progress = getattr(record, "progress", None)
        if progress is not None:
            self._out.waiting.report(*progress)
        elif self._out.shows_progress:
            self._out.note(record.getMessage())

    def close(self) -> None:
        """The command is over: nothing that moves stays on the screen."""
        self._out.waiting.clear()
        super().close()


def plain(value: Any) -> Any:
    """The same value, with None in the place of every NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def error_line(message: str) -> str:
    """A message as the one line that stderr gets."""
    return f"error: {one_line(message)}"

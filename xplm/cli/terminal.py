"""Lines from a terminal, where a text of many lines that is pasted comes as one.

GNU readline asks the terminal to mark what is pasted ("bracketed paste"). Elsewhere, lines that are waiting when Enter
is pressed are of a paste, unless some were waiting before: those were typed during an answer.

Source: the xterm control sequences (2004), and the readline module of Python's library.
"""

import contextlib
import io
import os
import select
import sys
from types import ModuleType

from xplm.cli.history import History

try:
    import readline as _readline
except ImportError:
    READLINE: ModuleType | None = None
else:
    READLINE = _readline

with contextlib.suppress(ImportError):  # Windows
    import termios

PASTE_BEGIN, PASTE_END = "\x1b[200~", "\x1b[201~"
"""Of a terminal that another program has asked to mark pastes."""

PASTE_SECONDS = 0.02  # until the next line of a paste is there; nobody types a character so fast
BLOCK_BYTES = 2**16


class Terminal:
    """What the user types, with line editing and a history where the platform has readline."""

    def __init__(self, history: History | None) -> None:
        """Take the terminal.

        Args:
            history: of earlier runs; None: it is not kept.

        Raises:
            RequestError: the history cannot be read.
        """
        # input() edits lines where both streams are a terminal.
        self._readline = READLINE if sys.stdout.isatty() else None
        self._history = history if self._readline else None
        self._last = ""  # what was remembered last
        self._is_marked = self._readline is not None and "GNU" in (self._readline.__doc__ or "")
        if self._readline:
            self._readline.set_auto_history(False)
            if self._is_marked:
                self._readline.parse_and_bind("set enable-bracketed-paste on")
            for self._last in history.load() if history else ():
                self._readline.add_history(self._last)

    def read(self, prompt: str) -> str:
        """The next line, or a paste with line ends inside.

        Raises:
            EOFError: Ctrl-D.
            UnicodeDecodeError: it is not in the terminal's encoding.
        """
        if self._is_marked:
            return input(prompt)
        descriptor = _terminal_descriptor()
        may_be_paste = descriptor is not None and not select.select([descriptor], [], [], 0)[0]
        line = self._line(prompt)
        if descriptor is None or not may_be_paste:
            return line
        rest = _waiting_text(descriptor)
        if rest and not rest.endswith("\n"):  # its last line is still without Enter
            rest += self._line("")
        text = f"{line}\n{rest}" if rest else line
        while PASTE_BEGIN in text and PASTE_END not in text:
            text += "\n" + self._line("")
        return text.replace(PASTE_BEGIN, "").replace(PASTE_END, "")

    def remember(self, source: str) -> None:
        """Have a message or command among those that the arrow keys bring back, in this run and in later ones.

        Raises:
            RequestError: the history cannot be written.
        """
        if self._readline and source not in ("", self._last):
            self._last = source
            self._readline.add_history(source)
            if self._history:
                self._history.add(source)

    def forget(self) -> None:
        """Keep no history from here on."""
        self._history = None

    def _line(self, prompt: str) -> str:
        if self._readline:
            return input(prompt)
        shown_on = next((s for s in (sys.stdout, sys.stderr) if s.isatty()), None)
        if shown_on:
            print(prompt, end="", file=shown_on, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n")


def _terminal_descriptor() -> int | None:
    """Of stdin; None where it cannot be asked for what is waiting: on Windows, or for a stream that is no file."""
    if sys.platform == "win32":
        return None
    try:
        descriptor = sys.stdin.fileno()
    except io.UnsupportedOperation:
        return None
    return descriptor if os.isatty(descriptor) else None


def _waiting_text(descriptor: int) -> str:
    """What has come behind a line at once: the rest of a paste, whose last line may have no end."""
    before = termios.tcgetattr(descriptor)
    by_characters = [*before[:3], before[3] & ~termios.ICANON, *before[4:]]
    content = bytearray()
    termios.tcsetattr(descriptor, termios.TCSANOW, by_characters)
    try:
        while select.select([descriptor], [], [], PASTE_SECONDS)[0]:
            block = os.read(descriptor, BLOCK_BYTES)
            if not block:
                break
            content += block
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
    text = content.decode(sys.stdin.encoding, sys.stdin.errors or "strict")
    return text.replace("\r\n", "\n").replace("\r", "\n")

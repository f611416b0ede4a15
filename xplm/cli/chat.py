"""`xplm chat`: a conversation in the terminal, or with a pipe."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from xplm.cli.flags import ModelFlags, SamplingFlags, takes_flags
from xplm.cli.output import Output, OutputFlags, error_line
from xplm.errors import RequestError, XplmError
from xplm.generate.session import Chat
from xplm.text import renderer

with contextlib.suppress(ImportError):
    import readline  # noqa: F401  # importing it gives input() line editing and history

HELP = """\
/rollback [N]  take back the last N turns (1)
/fork [N]      go on in a copy of this conversation; with N, go to branch N
/save FILE     write the conversation to a JSON file
/load FILE     replace it by one that was saved
/system [TEXT] set the system message; without TEXT, the model's own
/clear         forget every turn
/help          show this
/exit          leave (or Ctrl-D); Ctrl-C stops an answer"""

MAX_DIGITS = 9  # of a count

MAX_LINE_CHARS = 2**26
"""Of a message that comes through a pipe: ten million tokens or so, more than any context."""


@takes_flags
def chat(
    model: ModelFlags,
    sampling: SamplingFlags,
    output: OutputFlags,
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
) -> None:
    """Talk with a model.

    Each line of stdin is a message, or a command; /help lists them. What was computed in earlier turns is kept.

    Example: xplm chat --system "Answer in one sentence." --temperature 0.7
    """
    options = sampling.options()
    out = Output(output)
    renderer.start()  # while the weights are read
    session = model.load(out).chat(system=system)
    is_interactive = sys.stdin.isatty()
    if is_interactive:
        out.note(f"{model.model}; /help lists what else you can do")

    conversation = Conversation(session, options, out, is_interactive)
    for line in _lines(is_interactive):
        try:
            if not conversation.take(line):
                break
        except XplmError as error:
            if not is_interactive:
                raise
            print(error_line(str(error)), file=sys.stderr)
    out.result({"messages": conversation.chat.messages})


class Conversation:
    """The branches of a conversation, and what a line of input does to them."""

    def __init__(
        self, chat: Chat, options: dict[str, Any], out: Output, is_interactive: bool
    ) -> None:
        """Begin with one branch.

        Args:
            chat: the conversation.
            options: the fields of SamplingOptions, for every answer.
            out: where answers go.
            is_interactive: somebody types, so that Ctrl-C ends an answer and not the command.
        """
        self.branches = [chat]
        self.chat = chat
        self._options = options
        self._out = out
        self._is_interactive = is_interactive
        self._commands: dict[str, Callable[[str], None]] = {
            "/rollback": self._rollback,
            "/fork": self._fork,
            "/save": self._save,
            "/load": self._load,
            "/system": self._system,
            "/clear": self._clear,
            "/help": lambda _: self._out.line(HELP),
        }

    def take(self, line: str) -> bool:
        """Obey a command, or send a message and print the answer.

        Returns:
            Whether to go on.

        Raises:
            XplmError: the line asks for what cannot be done; the conversation is as it was.
        """
        name, _, rest = line.strip().partition(" ")
        if name in ("/exit", "/quit"):
            return False
        if name.startswith("/"):
            if name not in self._commands:
                raise RequestError(
                    f'no command "{name}"; there are {", ".join(self._commands)}, /exit'
                )
            self._commands[name](rest.strip())
        elif name:
            self._answer(line.strip())
        return True

    def _answer(self, message: str) -> None:
        with contextlib.closing(self.chat.stream(message, **self._options)) as stream:
            try:
                for piece in stream:
                    self._out.text(piece)
            except KeyboardInterrupt:
                self._out.line()
                if not self._is_interactive:
                    raise
                self._out.note("stopped; the turn is not kept")
                return
        self._out.line()
        if stream.result:
            self._out.timings(stream.result.timings)

    def _rollback(self, turns: str) -> None:
        self.chat.rollback(_count(turns) if turns else 1)
        self._out.note(f"{self.chat.n_turns} turns left")

    def _fork(self, branch: str) -> None:
        if not branch:
            self.branches.append(self.chat.fork())
        number = _count(branch) if branch else len(self.branches)
        if not 1 <= number <= len(self.branches):
            raise RequestError(f"there are branches 1 to {len(self.branches)}; got {number}")
        self.chat = self.branches[number - 1]
        self._out.note(
            f"branch {number} of {len(self.branches)}, {self.chat.n_turns} turns; /fork N changes"
        )

    def _save(self, path: str) -> None:
        self.chat.save(_file(path))
        self._out.note(f"saved {self.chat.n_turns} turns to {path}")

    def _load(self, path: str) -> None:
        self.chat.load(_file(path))
        self._out.note(f"loaded {self.chat.n_turns} turns from {path}")

    def _system(self, text: str) -> None:
        self.chat.system = text or None
        self._out.note("system message set" if text else "system message: the model's own")

    def _clear(self, _: str) -> None:
        self.chat.clear()
        self._out.note("all turns forgotten")


def _lines(is_interactive: bool) -> Iterator[str]:
    """Lines of stdin to its end. At a terminal, Ctrl-C drops the line being typed."""
    while True:
        try:
            yield input("> ") if is_interactive else _piped_line()
        except EOFError:
            if is_interactive:
                print()
            return
        except UnicodeDecodeError as error:
            raise RequestError("a message must be UTF-8; convert it first") from error
        except KeyboardInterrupt:
            if not is_interactive:
                raise
            print(file=sys.stderr)


def _piped_line() -> str:
    """The next line of a pipe, which may hold one without an end."""
    line = sys.stdin.readline(MAX_LINE_CHARS + 1)
    if not line:
        raise EOFError
    if len(line) > MAX_LINE_CHARS:
        raise RequestError(f"a message must have at most {MAX_LINE_CHARS:,} characters; shorten it")
    return line


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > MAX_DIGITS:
        raise RequestError(
            f'a number of at most {MAX_DIGITS} digits is needed, such as 1; got "{text[:40]}"'
        )
    return int(text)


def _file(path: str) -> str:
    if not path:
        raise RequestError("a file name is needed; write, for example, /save chat.json")
    return path

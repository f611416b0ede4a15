"""A conversation with a user: what each message and each command does."""

import contextlib
from collections.abc import Callable
from typing import Any

from xplm.cli.messages import Entry, Kind
from xplm.cli.output import Output
from xplm.cli.sampling import SAMPLERS
from xplm.errors import ContextError, RequestError
from xplm.generate.result import Generation
from xplm.generate.session import Chat
from xplm.generate.transcript import REASONING

HELP = """\
/rollback [N]  take back the last N turns (1)
/keep          keep an answer that Ctrl-C has stopped, as it stands
/fork [N]      go on in a copy of this conversation; with N, go to branch N
/save FILE     write the conversation to a JSON file
/load FILE     replace it by one that was saved
/system [TEXT] set the system message; without TEXT, the model's own
/clear         forget every turn
/help          show this
/exit          leave (or Ctrl-D); Ctrl-C stops an answer
//TEXT         send a message that starts with a slash

A pasted text of many lines is one message. So is what stands between \"\"\"
and \"\"\", and a line that ends with a backslash goes on in the next.
The arrow keys bring back what was typed, in earlier runs too."""

ROOM = "/rollback takes turns back, /clear forgets all"

MAX_DIGITS = 9  # of a count


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
            is_interactive: the user types, so that Ctrl-C ends an answer and not the command.
        """
        self.branches = [chat]
        self.chat = chat
        self._options = options
        self._out = out
        self._is_interactive = is_interactive
        self._stopped: tuple[str, str, str] | None = None  # message, answer and thoughts so far
        self._commands: dict[str, Callable[[str], None]] = {
            "/rollback": self._rollback,
            "/keep": self._keep,
            "/fork": self._fork,
            "/save": self._save,
            "/load": self._load,
            "/system": self._system,
            "/clear": self._clear,
            "/help": self._help,
        }

    @property
    def has_answers(self) -> bool:
        """Whether there is a turn, or the beginning of one."""
        return self.chat.n_turns > 0 or self._stopped is not None

    def as_dict(self) -> dict[str, Any]:
        """The conversation for JSON; `unfinished` is a turn that was broken off and not kept."""
        result = {
            "messages": self.chat.messages,
            "finish_reasons": self.chat.finish_reasons,
            "sampling": {name: self._options[name] for name in (*SAMPLERS, "seed")},
        }
        if self._stopped:
            names = ("user", "assistant", REASONING)
            unfinished = zip(names, self._stopped, strict=True)
            result["unfinished"] = {n: t for n, t in unfinished if t or n != REASONING}
        return result

    def take(self, entry: Entry) -> bool:
        """Obey a command, or send a message and print the answer.

        Returns:
            Whether to go on.

        Raises:
            XplmError: the entry asks for what cannot be done; the conversation is as it was.
        """
        text = entry.text
        if not text.strip():
            return True
        name, *rest = text.split(maxsplit=1) if entry.kind is not Kind.BLOCK else [""]
        if name in ("/exit", "/quit"):
            _require_nothing(name, *rest)
            return False
        if name in self._commands:
            self._commands[name](rest[0].strip() if rest else "")
            return True
        if entry.kind is Kind.TYPED and text.startswith("/"):
            if not text.startswith("//"):
                raise RequestError(
                    f'no command "{name}"; there are {", ".join(self._commands)}, /exit; '
                    "// at the start sends a message that starts with a slash"
                )
            text = text[1:]
        self._answer(text)
        return True

    def _answer(self, message: str) -> None:
        try:
            stream = self.chat.stream(message, **self._options)
        except ContextError as error:
            if not self.chat.n_turns:
                raise
            raise ContextError(f"{error}, or make room: {ROOM}") from error
        self._stopped = None
        answer = thoughts = ""
        with contextlib.closing(stream):
            try:
                for part in self._out.parts(stream):
                    answer += part.text if part.kind == "content" else ""
                    thoughts += part.text if part.kind == "reasoning" else ""
            except KeyboardInterrupt:
                self._out.line()
                if answer or thoughts:
                    self._stopped = (message, answer, thoughts)
                if not self._is_interactive:
                    raise
                keep = " unless you enter /keep before the next message" if self._stopped else ""
                self._out.note(f"stopped; the turn is not kept{keep}")
                return
        self._out.line()
        if stream.result:
            self._note_cut(stream.result)
            self._out.timings(stream.result.timings)

    def _note_cut(self, answer: Generation) -> None:
        """Mark an answer that did not come to its end."""
        n_tokens, context = len(answer.token_ids), self.chat.context
        if answer.finish_reason != "length":
            return
        cut = "cut while thinking" if answer.reasoning and not answer.text else "cut"
        if answer.prompt_tokens + n_tokens >= context:
            self._out.note(f"[{cut}: the context of {context} tokens is full; {ROOM}]")
        else:
            self._out.note(f"[{cut} after {n_tokens} tokens, the limit of --max-new-tokens]")

    def _rollback(self, turns: str) -> None:
        self.chat.rollback(_count(turns) if turns else 1)
        self._stopped = None
        self._out.note(f"{self.chat.n_turns} turns left")

    def _keep(self, rest: str) -> None:
        _require_nothing("/keep", rest)
        if self._stopped is None:
            raise RequestError("/keep needs an answer that Ctrl-C has just stopped; there is none")
        self.chat.append(*self._stopped)
        self._stopped = None
        self._out.note("kept; /rollback takes it back")

    def _fork(self, branch: str) -> None:
        if not branch:
            self.branches.append(self.chat.fork())
        number = _count(branch) if branch else len(self.branches)
        if not 1 <= number <= len(self.branches):
            raise RequestError(f"there are branches 1 to {len(self.branches)}; got {number}")
        self.chat = self.branches[number - 1]
        self._stopped = None
        self._out.note(
            f"branch {number} of {len(self.branches)}, {self.chat.n_turns} turns; /fork N changes"
        )

    def _save(self, path: str) -> None:
        self.chat.save(_file(path))
        self._out.note(f"saved {self.chat.n_turns} turns to {path}")

    def _load(self, path: str) -> None:
        self.chat.load(_file(path))
        self._stopped = None
        self._out.note(f"loaded {self.chat.n_turns} turns from {path}")

    def _system(self, text: str) -> None:
        self.chat.system = text or None
        self._out.note("system message set" if text else "system message: the model's own")

    def _clear(self, rest: str) -> None:
        _require_nothing("/clear", rest)
        self.chat.clear()
        self._stopped = None
        self._out.note("all turns forgotten")

    def _help(self, rest: str) -> None:
        _require_nothing("/help", rest)
        self._out.line(HELP)


def _require_nothing(command: str, rest: str = "") -> None:
    if rest:
        raise RequestError(f'{command} takes nothing after it; got "{rest[:40]}"')


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

"""A conversation of many turns, which keeps what it has computed.

The turns are the truth, and the KV cache follows them: each new prompt is the whole conversation, rendered by the
model's chat template, of which only the tokens after the longest beginning that the cache already holds are computed.
So taking turns back, changing the system message or loading another conversation can make the cache less useful, but
never wrong. Where a window has passed what is asked for again, it is found in pages that are still kept, or computed
again; so are keys that a RoPE whose frequencies depend on the length rotates otherwise now.
"""

from collections.abc import Generator, Mapping, Sequence
from os import PathLike
from reprlib import repr as shown  # a value of any length, cut short
from typing import Any, NamedTuple, Unpack

from xplm.errors import RequestError
from xplm.generate.chat_format import ChatFormat
from xplm.generate.engine import Engine
from xplm.generate.options import SamplingKeywords, make_options
from xplm.generate.reply import Reply, start_reply
from xplm.generate.request import Request
from xplm.generate.result import FinishReason, Generation
from xplm.generate.stream import TextStream, stream_reply
from xplm.generate.transcript import REASONING, read_transcript, write_transcript
from xplm.page_pool import PagePool
from xplm.pages import first_key
from xplm.rope_scaling import table_name
from xplm.text.chat import Message
from xplm.text.faults import require_text
from xplm.text.reply_parts import Part


class Turn(NamedTuple):
    """One exchange."""

    user: str
    assistant: str
    n_cached: int  # tokens that the cache held after it, as far as it still holds them
    finish_reason: FinishReason | None = (
        None  # None: of an answer that was not generated here to its end
    )
    reasoning: str = ""  # what the model thought before its answer


class Chat:
    """A conversation with a model; `LanguageModel.chat` makes one."""

    def __init__(
        self,
        engine: Engine,
        chat_format: ChatFormat,
        system: str | None,
        template_args: Mapping[str, Any] | None = None,
    ) -> None:
        """Start an empty conversation.

        Args:
            engine: the decoder.
            chat_format: the model's chat format and tokenizer.
            system: the system message, or None for the template's default. It may be set at any time.
            template_args: further names for the chat template.

        Raises:
            RequestError: the template reads no such name, or it is not the caller's to give.
        """
        self.system = system
        """The system message; None for what the template says by itself. It may be set at any time."""
        self._engine = engine
        self._format = chat_format
        self._template_args = dict(template_args or {})
        for name, value in self._template_args.items():
            chat_format.require_read(name, value)
        self._turns: tuple[Turn, ...] = ()
        self._pool = PagePool(engine.rt, engine.config)
        self._row = self._pool.acquire([], self._parent(1))
        self._is_replying = False

    @property
    def messages(self) -> list[Message]:
        """The conversation so far, oldest first; "reasoning_content" is what the model thought before an answer."""
        messages: list[Message] = []
        if self.system:
            messages.append({"role": "system", "content": self.system})
        for turn in self._turns:
            messages.append({"role": "user", "content": turn.user})
            said = {"role": "assistant", "content": turn.assistant}
            messages.append(said | ({REASONING: turn.reasoning} if turn.reasoning else {}))
        return messages

    def __repr__(self) -> str:
        """The system message, and the turns and tokens so far."""
        system = "" if self.system is None else f"system={shown(self.system)}, "
        held = f"tokens={self._row.length} of {self._engine.context}"
        return f"Chat({system}turns={self.n_turns}, {held})"

    @property
    def n_turns(self) -> int:
        """Exchanges so far."""
        return len(self._turns)

    @property
    def finish_reasons(self) -> list[FinishReason | None]:
        """Why each answer ended, oldest first; None for one that was loaded or appended."""
        return [turn.finish_reason for turn in self._turns]

    @property
    def context(self) -> int:
        """The most tokens that the conversation can hold."""
        return self._engine.context

    def prompt_ids(self, text: str) -> list[int]:
        """The token ids that a message is answered from: the conversation, the message, the opening of the answer.

        Raises:
            RequestError: the message or the system message is no text.
            ContextError: they are far too many.
            TemplateError: the chat template refuses the conversation.
        """
        require_text("a message", text)
        if self.system is not None:
            require_text("a system message", self.system)
        messages = [*self.messages, {"role": "user", "content": text}]
        return self._format.encode(messages, **self._template_args)

    def send(self, text: str, **options: Unpack[SamplingKeywords]) -> Generation:
        """Say something, and wait for the whole reply. As `stream`, but for what it returns."""
        return self.stream(text, **options).finish()

    def stream(self, text: str, **options: Unpack[SamplingKeywords]) -> TextStream:
        """Say something, and read the reply as it comes.

        The turn joins the conversation when the last piece has been read. If that never happens, because the stream
        was closed or generating failed, the conversation is as it was before.

        Args:
            text: the user's message.
            options: any of the fields of SamplingOptions.

        Returns:
            Pieces of the reply's text; its `parts` are these and the model's thoughts.

        Raises:
            ContextError: the conversation fills the model's context.
            RequestError: an option is out of range, or an earlier reply has not been read to its end.
            TemplateError: the chat template refuses the conversation.
        """
        parts = self._reply_to(text, options)
        next(parts)  # a bad request is refused now, and not at the first part
        return TextStream(parts)

    def append(self, user: str, assistant: str, reasoning: str = "") -> None:
        """Add an exchange as it is, such as one whose answer was broken off.

        Args:
            user: the user's message.
            assistant: the answer to it.
            reasoning: thoughts before the answer.

        Raises:
            RequestError: they are no texts, or an earlier reply has not been read to its end.
        """
        require_text("a message", user)
        require_text("an answer", assistant)
        require_text("a thought", reasoning)
        self._require_idle()
        self._turns += (Turn(user, assistant, self._row.length, reasoning=reasoning),)

    def rollback(self, turns: int = 1) -> None:
        """Take back the last turns, as if they had never been sent.

        Raises:
            RequestError: there are fewer.
        """
        self._require_idle()
        if not 0 <= turns <= len(self._turns):
            raise RequestError(
                f"the conversation has {len(self._turns)} turns to take back; got {turns}"
            )
        self._turns = self._turns[: len(self._turns) - turns]
        self._truncate(self._turns[-1].n_cached if self._turns else 0)

    def fork(self) -> "Chat":
        """An independent conversation that begins with this one's turns, and with a copy of its cache."""
        self._require_idle()
        other = Chat(self._engine, self._format, self.system, self._template_args)
        other._turns = self._turns
        other._pool, other._row = self._pool, self._row.fork()
        return other

    def clear(self) -> None:
        """Forget every turn; the system message stays."""
        self.rollback(len(self._turns))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the conversation to a JSON file, whole or not at all.

        Raises:
            RequestError: the file cannot be written.
        """
        write_transcript(path, self.messages)

    def load(self, path: str | PathLike[str]) -> None:
        """Replace the conversation, system message and all, by one that `save` wrote.

        Raises:
            RequestError: the file cannot be read or holds something else; the conversation stays as it is.
        """
        self._require_idle()
        transcript = read_transcript(path)
        self.system = transcript.system
        self._turns = tuple(
            Turn(user, assistant, 0, reasoning=reasoning)
            for user, assistant, reasoning in transcript.turns
        )

    def _reply_to(self, text: str, options: SamplingKeywords) -> Generator[Part, None, Generation]:
        self._require_idle()
        reply = start_reply(
            self._engine,
            self._format.encoder.tokenizer,
            self.prompt_ids(text),
            make_options(options),
            continues_prompt=False,
            turn_end_ids=self._format.turn_end_ids(self._format.reply_format),
            reply_format=self._format.reply_format,
            has_room=self._row.has_room,
        )

        self._is_replying = True
        held = self._row.length
        try:
            yield Part("content", "")  # the request is good: what `stream` waits for
            held = self._keep_beginning(reply)
            generation = yield from stream_reply(
                self._engine, Request(reply, row=self._row), self._pool
            )
            self._truncate(self._count_alike(len(reply.prompt_ids)))
            held = self._row.length
            turn = Turn(text, generation.text, held, generation.finish_reason)
            self._turns += (turn._replace(reasoning=generation.reasoning),)
            return generation
        finally:
            self._is_replying = False
            self._truncate(held)  # of a reply that was broken off, nothing stays

    def _keep_beginning(self, reply: Reply) -> int:
        """Have the row hold nothing but a beginning of the prompt, as long a one as is held; returns how much."""
        # The last token of the prompt is always computed: its logits choose the reply's first.
        prompt, parent = reply.prompt_ids, self._parent(len(reply.prompt_ids))
        is_alike = self._row.keys[0] == parent
        self._truncate(_common_prefix(self._row.ids, prompt[:-1]) if is_alike else 0)
        kept = self._pool.acquire(prompt, parent)
        if not is_alike or kept.length > self._row.length:
            self._row, kept = kept, self._row
        kept.release()
        self._row.is_kept = True
        return self._row.length

    def _count_alike(self, n_prompt: int) -> int:
        """How many of the tokens that are held are rotated as the first is; as many as the prompt had at least."""
        length = self._row.length
        while length > n_prompt and self._parent(length) != self._row.keys[0]:
            length -= 1
        return length

    def _parent(self, length: int) -> bytes:
        """The key of what a row begins with, by the length that its tokens are rotated by."""
        return first_key("", table_name(self._engine.config.ropes, length))

    def _truncate(self, length: int) -> None:
        """Forget what is held beyond `length` tokens; all of it, where a window has passed the rest."""
        if not self._row.rollback(length):
            self._row.release()
        length = self._row.length
        self._turns = tuple(t._replace(n_cached=min(t.n_cached, length)) for t in self._turns)

    def _require_idle(self) -> None:
        if self._is_replying:
            raise RequestError("one reply at a time; read the earlier one to its end, or close it")


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading items are equal."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))

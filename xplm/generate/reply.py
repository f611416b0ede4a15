"""One reply as it grows: the owner of its ids, its text and the reason it ended."""

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor

import numpy as np

from xplm.errors import ContextError, RequestError
from xplm.generate.constraint import Constraint, Unconstrained
from xplm.generate.engine import Engine
from xplm.generate.options import SamplingOptions
from xplm.generate.result import FinishReason, Generation, Timings
from xplm.generate.sampling import Choice, Ranked, choose_token
from xplm.generate.stop import StopFilter, hide_special
from xplm.text.detokenize import StreamDecoder
from xplm.text.reply_parts import Kind, Part, join_calls
from xplm.text.thoughts import Plain, ReplyFormat
from xplm.text.tokenizer import Tokenizer

WORTH_A_THREAD = 2**17
"""Logits that one thread has been through before another has woken up."""


class Reply:
    """What one row of a batch generates."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int],
        options: SamplingOptions,
        *,
        stop_ids: Collection[int],
        max_tokens: int,
        continues_prompt: bool,
        reply_format: ReplyFormat = Plain(),  # noqa: B008, a value
        constraint: Constraint = Unconstrained(),  # noqa: B008, a value
    ) -> None:
        """Start an empty reply.

        Args:
            tokenizer: turns ids into text.
            prompt_ids: what the reply follows, at least one id.
            options: how to choose tokens, and the stop texts.
            stop_ids: ids that end the reply.
            max_tokens: new tokens at most, at least 1.
            continues_prompt: the text runs on from the prompt's, so that a space between the two is part of it; else
                it stands alone, as a turn of a chat does.
            reply_format: how thoughts are told from the answer.
            constraint: which tokens may be chosen; it is this reply's alone.

        Raises:
            RequestError: a stop text holds a lone surrogate.
        """
        self.prompt_ids = list(prompt_ids)
        self.options = options
        self.stop_ids = frozenset(stop_ids)
        self.max_tokens = max_tokens
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.top_logprobs: list[Ranked] = []  # of each id, as many as the options ask for
        self.parts: list[Part] = []  # so far, as they came
        self.finish_reason: FinishReason | None = None
        self._tokenizer = tokenizer
        self._continues_prompt = continues_prompt
        self._format = reply_format
        self._constraint = constraint
        self._decoder = StreamDecoder(tokenizer)
        markers = reply_format.markers
        special = tokenizer.special_token_ids if options.stop or markers else {}
        stop, self._stand_ins = hide_special(options.stop, special, markers)
        shown = {marker: self._stand_ins[special[marker]] for marker in markers}
        self._shown = "".join(shown.values())
        self._stop_filter = StopFilter(stop, self._shown)
        self._splitter = reply_format.splitter(self.prompt_ids, shown)
        if continues_prompt:
            self._decoder.push(self.prompt_ids[-1])

    @property
    def text(self) -> str:
        """The answer so far: without thoughts and calls."""
        return _join(self.parts, "content")

    def choose(self, logits: np.ndarray) -> Choice:
        """The next token.   logits (V,) float32, the model's

        Raises:
            RequestError: the logits are not finite, or the constraint allows none.
        """
        return choose_token(
            logits,
            self.prompt_ids + self.ids,
            self.options,
            n_prompt=len(self.prompt_ids),
            allowed=self._constraint.mask(logits),
        )

    def take(self, choice: Choice) -> list[Part]:
        """Take in the token that was chosen; return the parts that can be shown now, which may be none."""
        self._constraint.push(choice.token)
        return self.push(*choice)

    def push(self, token: int, logprob: float, top: Sequence[tuple[int, float]] = ()) -> list[Part]:
        """Take in the next token; return the parts that can be shown now, which may be none."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        self.top_logprobs.append(list(top))

        stand_in = self._stand_ins.get(token, "")
        if token in self.stop_ids:
            self.finish_reason = "stop"
            piece = self._stop_filter.push(self._decoder.flush() + stand_in)
        else:
            piece = self._stop_filter.push(self._decode(token) + stand_in)
            if len(self.ids) == self.max_tokens:
                self.finish_reason = "length"
                piece += self._stop_filter.push(self._decoder.flush())
        if self._stop_filter.is_stopped:
            self.finish_reason = "stop"
        elif self._constraint.is_complete and self.finish_reason is None:
            self.finish_reason = "stop"
            piece += self._stop_filter.push(self._decoder.flush())
        if self.finish_reason:
            piece += self._stop_filter.flush()

        parts = self._splitter.push(piece)
        if self.finish_reason:
            parts += self._splitter.flush()
        self.parts += parts
        return parts

    def would_end(self, ids: Sequence[int]) -> bool:
        """Whether a reply made of these ids, none of which but the last may end it, has ended."""
        if ids[-1] in self.stop_ids or len(ids) == self.max_tokens:
            return True
        if not self.options.stop:
            return False
        trial = Reply(
            self._tokenizer,
            self.prompt_ids,
            self.options,
            stop_ids=self.stop_ids,
            max_tokens=self.max_tokens,
            continues_prompt=self._continues_prompt,
            reply_format=self._format,
        )
        for token in ids:
            trial.push(token, 0.0)
        return trial.finish_reason is not None

    def result(self, timings: Timings) -> Generation:
        """The finished reply."""
        assert self.finish_reason, "a reply has a result once it has ended"
        return Generation(
            text=self.text,
            token_ids=self.ids,
            logprobs=self.logprobs,
            top_logprobs=self.top_logprobs if self.options.top_logprobs else [],
            finish_reason=self.finish_reason,
            prompt_tokens=len(self.prompt_ids),
            timings=timings,
            reasoning=_join(self.parts, "reasoning"),
            calls=join_calls(self.parts),
        )

    def _decode(self, token: int) -> str:
        """The text that is certain with a token; all of it in front of one that marks a part."""
        is_marker = token in self._stand_ins and self._stand_ins[token] in self._shown
        return self._decoder.settle() if is_marker else self._decoder.push(token)


def advance(
    replies: Sequence[Reply], logits: np.ndarray, executor: Executor | None = None
) -> list[list[Part] | RequestError]:
    """Choose the next token of each reply, and take it in.

    Args:
        replies: of which each has its own logits.
        logits: (B, V) float32, the model's.
        executor: its threads share the choices. A choice depends on its reply alone, and takes a few passes over a
            vocabulary, in which NumPy lets other threads run.

    Returns:
        Of each the parts that can be shown now, which may be none, or why no token can follow.
    """
    outcomes: Iterator[Choice | RequestError] = map(_choose, replies, logits)
    if executor is not None and len(replies) > 1 and logits.size >= WORTH_A_THREAD:
        outcomes = executor.map(_choose, replies, logits)
    return [_take(*pair) for pair in zip(replies, outcomes, strict=True)]


def _choose(reply: Reply, logits: np.ndarray) -> Choice | RequestError:
    try:
        return reply.choose(logits)
    except RequestError as refused:
        return refused


def _take(reply: Reply, outcome: Choice | RequestError) -> list[Part] | RequestError:
    try:
        return outcome if isinstance(outcome, RequestError) else reply.take(outcome)
    except RequestError as refused:
        return refused


def start_reply(
    engine: Engine,
    tokenizer: Tokenizer,
    prompt_ids: Sequence[int],
    options: SamplingOptions,
    *,
    continues_prompt: bool,
    turn_end_ids: Collection[int] = (),
    reply_format: ReplyFormat = Plain(),  # noqa: B008, a value
    constraint: Constraint = Unconstrained(),  # noqa: B008, a value
    has_room: Callable[[int], bool] = lambda n_tokens: False,
) -> Reply:
    """An empty reply to a prompt, after checking that there is room for one.

    Args:
        engine: the decoder.
        tokenizer: the model's.
        prompt_ids: what to reply to.
        options: how to choose tokens, and when to stop.
        continues_prompt: as for Reply.
        turn_end_ids: ids that end a turn of a chat, besides the model's own end of sequence.
        reply_format: as for Reply.
        constraint: as for Reply; beam search takes none.
        has_room: whether pages for so many tokens are there already.

    Raises:
        RequestError: the prompt is empty, fills the model's context, or has an id outside the vocabulary, as a stop
            id or that of a bias may; or beam search is asked for under a constraint.
        OutOfMemoryError: the device's free memory cannot hold the reply's cache and activations.
    """
    prompt_ids = engine.check_ids(prompt_ids)
    room = engine.context - len(prompt_ids)
    if room < 1:
        raise ContextError(
            f"a prompt must leave room for a token in the model's context of {engine.context}; "
            f"got {len(prompt_ids)} tokens; shorten it"
        )
    engine.require_known("stop_token_ids", options.stop_token_ids)
    engine.require_known("ids of logit_bias", [token for token, _ in options.logit_bias])
    if options.num_beams > 1 and not isinstance(constraint, Unconstrained):
        raise RequestError(
            f"beam search follows no grammar, so one needs num_beams 1; got {options.num_beams}"
        )
    max_tokens = min(options.max_new_tokens, room)
    n_tokens = len(prompt_ids) + max_tokens
    has_cache = options.num_beams == 1 and has_room(n_tokens)
    engine.require_memory(options.num_beams, len(prompt_ids), max_tokens, has_cache=has_cache)

    ends = (*engine.config.eos_token_id, *tokenizer.eos_token_ids, *turn_end_ids)
    eos = () if options.ignore_eos else ends
    return Reply(
        tokenizer,
        prompt_ids,
        options,
        stop_ids=(*eos, *options.stop_token_ids),
        max_tokens=max_tokens,
        continues_prompt=continues_prompt,
        reply_format=reply_format,
        constraint=constraint,
    )


def _join(parts: Sequence[Part], kind: Kind) -> str:
    return "".join([part.text for part in parts if part.kind == kind])

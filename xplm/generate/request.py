"""A reply that is asked for: what the scheduler serves, and what it hands back."""

from collections.abc import Sequence
from typing import NamedTuple

from xplm.errors import XplmError
from xplm.generate.prompt_scores import PromptScores
from xplm.generate.reply import Reply
from xplm.generate.result import Generation, Timings
from xplm.page_pool import PageRow
from xplm.text.reply_parts import Part


class Request:
    """A reply that is asked for, and what serving it has taken so far."""

    def __init__(
        self,
        reply: Reply,
        owner: str = "",
        row: PageRow | None = None,
        *,
        scored_from: int | None = None,
    ) -> None:
        """Nothing is computed yet.

        Args:
            reply: empty.
            owner: whose it is; a beginning of a text is shared between requests of one owner alone.
            row: of the scheduler's pool, holding a beginning of the prompt, short of all. It is the caller's, and holds
                all tokens of the prompt and the reply but the last when it has ended; None: the request gets one.
            scored_from: the first token of the prompt, at least 1, of those whose log-probabilities are asked for, too.
                Such a prompt is read from the token before that on, or earlier. None: of none.
        """
        self.reply = reply
        self.owner = owner
        n_top = reply.options.top_logprobs
        self.prompt_scores = (
            None if scored_from is None else PromptScores(reply.prompt_ids, n_top, scored_from)
        )
        self.row = row  # None while it waits without one
        self.is_row_lent = row is not None
        self.reused_tokens = 0
        """Tokens whose keys and values were there already."""
        self.computed_tokens = 0
        """Tokens of the prompt that were computed, more than once after it had to give its pages back."""
        self.prefill_seconds = 0.0
        """Of the passes that it took part in, up to its first token."""
        self.decode_seconds = 0.0
        """Of those after that."""
        self._reached = 0  # tokens of the prompt that were held at some time
        self.is_long = False  # what its row holds is rotated by the long factors of longrope
        self.compilations = 0
        """Kernels that were compiled meanwhile, for who counts them."""

    def reach(self, length: int, *, is_reused: bool) -> None:
        """Tell that so many tokens are held: of those that were not before, whether they were there already."""
        length = min(length, len(self.reply.prompt_ids))
        if is_reused:
            self.reused_tokens += max(0, length - self._reached)
        self._reached = max(self._reached, length)

    @property
    def ids(self) -> list[int]:
        """The prompt and what follows it."""
        return self.reply.prompt_ids + self.reply.ids

    @property
    def n_unread(self) -> int:
        """Tokens whose keys and values are not stored."""
        held = 0 if self.row is None else self.row.length
        return len(self.reply.prompt_ids) + len(self.reply.ids) - held

    @property
    def is_scoring(self) -> bool:
        """Whether tokens of the prompt are still to be scored."""
        return self.prompt_scores is not None and not self.prompt_scores.is_complete

    @property
    def scored_from(self) -> int:
        """The first token of the prompt to be scored."""
        assert self.prompt_scores is not None
        return self.prompt_scores.begin

    def is_scored_by(self, count: int) -> bool:
        """Whether the logits of the next `count` tokens score tokens of the prompt."""
        return self.is_scoring and len(self.ids) - self.n_unread + count >= self.scored_from

    def result(self) -> Generation:
        """The finished reply."""
        return self.reply.result(
            Timings(
                prefill_tokens=self.computed_tokens,
                prefill_seconds=self.prefill_seconds,
                decode_tokens=len(self.reply.ids) - 1,
                decode_seconds=self.decode_seconds,
                compilations=self.compilations,
                reused_tokens=self.reused_tokens,
            )
        )


class Event(NamedTuple):
    """What a pass gave to one request."""

    request: Request
    parts: list[Part]  # that can be shown now
    error: XplmError | None = None  # why it ended without a reply


def sum_timings(requests: Sequence[Request]) -> Timings:
    """The timings of requests that were served together, one prompt after another and then all replies at once."""
    return Timings(
        prefill_tokens=sum(r.computed_tokens for r in requests),
        prefill_seconds=sum(r.prefill_seconds for r in requests),
        decode_tokens=sum(len(r.reply.ids) - 1 for r in requests),
        decode_seconds=max(r.decode_seconds for r in requests),
        compilations=max(r.compilations for r in requests),
        reused_tokens=sum(r.reused_tokens for r in requests),
    )

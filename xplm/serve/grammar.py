r"""Replies that follow a grammar, by llguidance: JSON, JSON of a schema, and calls of tools.

A grammar is Lark text. Where a model thinks before it answers, the grammar begins behind its thoughts:

    start: (<[151667]> thought)? body        the tags are tokens, or text where they are no special tokens
    body: %json {"type": "object"}

Source: https://github.com/guidance-ai/llguidance. LIMITS count its own units of work, so that what is refused does not
depend on how busy the machine is. The largest grammars of MOST_CHARS take about 0.3 s to compile and 0.1 s at the first
token; a token takes 1 ms as a rule, and 30 ms at most of what was tried.
"""

import json
import re
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import llguidance
import numpy as np

from xplm.errors import RequestError
from xplm.serve.call_rules import as_token, call_rules, json_rule
from xplm.text.call_formats import CallFormat
from xplm.text.thoughts import Channels, ReplyFormat, Tagged
from xplm.text.tokenizer import Tokenizer
from xplm.text.tools import Tool

MOST_CHARS = 2**16
"""Characters of a grammar."""

LIMITS = llguidance.LLParserLimits(
    max_grammar_size=100_000,  # symbols
    initial_lexer_fuel=500_000,  # about 10 ms
    step_lexer_fuel=100_000,  # about 7 ms a token
    step_max_items=50_000,  # about 3 ms a token
    max_lexer_states=20_000,  # about 2 kB each
    verbose_errors=False,
)

_NOISE = re.compile(
    r"^at \d+\(\d+\): (failed to compile JSON schema: )?|^ +\d+ \| .*$|^ *\^+ *$|<non-verbose/>",
    re.MULTILINE,
)
"""Of an error: where it is in Lark text that nobody has seen."""

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


class Grammars:
    """Grammars over the tokens of one model. Threads may share it."""

    def __init__(
        self, tokenizer: Tokenizer, reply_format: ReplyFormat, end_ids: Sequence[int]
    ) -> None:
        """Remember the model; its tokens are read with the first grammar, which takes a second for a large vocabulary.

        Args:
            tokenizer: the model's.
            reply_format: how it tells thoughts from answers.
            end_ids: tokens that end a reply.
        """
        self._tokenizer, self._format = tokenizer, reply_format
        self._end_ids = list(dict.fromkeys(end_ids))
        self._tokens: llguidance.LLTokenizer | None = None
        self._lock = Lock()

    def json_schema(
        self, schema: Any = ANY_OBJECT, prompt_ids: Sequence[int] | None = None
    ) -> "GrammarConstraint":
        """A constraint to JSON.

        Args:
            schema: JSON Schema; any object unless given.
            prompt_ids: of a chat, so that thoughts come first where the model has them; None: nothing comes first.

        Raises:
            RequestError: the schema is too large, is none, or uses what grammars cannot express.
        """
        head = ""
        if isinstance(self._format, Channels) and prompt_ids is not None:
            _, channel, message, _ = map(self._token, self._format.markers)
            head = f'{channel} "final" {message} '
        return self.lark(f"body: {head}{json_rule(schema)}\n", prompt_ids)

    def calls(
        self, form: CallFormat, tools: Sequence[Tool], prompt_ids: Sequence[int], *, several: bool
    ) -> "GrammarConstraint":
        """A constraint to calls of tools, at least one.

        Args:
            form: of the model's calls.
            tools: those that may be called.
            prompt_ids: as for `json_schema`.
            several: whether there may be more than one.

        Raises:
            RequestError: as `json_schema`, for the parameters of a tool.
        """
        return self.lark(call_rules(self._tokenizer, form, tools, several=several), prompt_ids)

    def lark(self, rules: str, prompt_ids: Sequence[int] | None = None) -> "GrammarConstraint":
        """A constraint to the rule `body` of a grammar.

        Args:
            rules: Lark text.
            prompt_ids: as for `json_schema`.

        Raises:
            RequestError: the grammar is too large, or uses what llguidance cannot express.
        """
        if len(rules) > MOST_CHARS:
            raise RequestError(
                f"a grammar must have at most {MOST_CHARS} characters; got {len(rules)}; simplify it"
            )
        prefix = "" if prompt_ids is None else self._thoughts(prompt_ids)
        lark = f"start: {'thoughts ' if prefix else ''}body\n{prefix}{rules}"
        matcher = llguidance.LLMatcher(
            self._read_tokens(),
            llguidance.LLMatcher.grammar_from_lark(lark),
            log_level=0,
            limits=LIMITS,
        )
        constraint = GrammarConstraint(matcher)
        matcher.compute_bitmask()  # the longest by far; what it finds out is kept for all copies
        return constraint

    def _read_tokens(self) -> llguidance.LLTokenizer:
        if not self._end_ids:
            raise RequestError(
                "a grammar needs a model with a token that ends a reply; it has none"
            )
        with self._lock:
            if self._tokens is None:
                pipeline = self._tokenizer.pipeline.to_str()
                try:
                    self._tokens = llguidance.LLTokenizer(pipeline, eos_token=self._end_ids)
                except ValueError as error:
                    raise RequestError(
                        "a grammar needs a model whose tokens are bytes or SentencePiece's; "
                        f"this tokenizer has others ({error})"
                    ) from error
            return self._tokens

    def _thoughts(self, prompt_ids: Sequence[int]) -> str:
        """The rule `thoughts`, and those it needs; "" for a model without thoughts."""
        form = self._format
        if isinstance(form, Channels):
            start, channel, message, end = map(self._token, form.markers)
            return (
                f'thoughts: (thought {start} "assistant")*\n'
                f"thought: {channel} /analysis|commentary/ {message} TEXT {end}\n"
                "TEXT: /(.|\\n)*/\n"
            )
        if not isinstance(form, Tagged):
            return ""
        begin, end = self._token(form.begin), self._token(form.end)
        closed = f"TEXT {end}" if end.startswith("<") else "ended"
        thought = f"{closed} /\\n{{0,3}}/"
        if not form.is_open(prompt_ids):
            thought = f"(/[ \\n]{{0,3}}/ {begin} {thought})?"
        return (
            f"thoughts: {thought}\nended[suffix={json.dumps(form.end)}]: TEXT\nTEXT: /(.|\\n)*/\n"
        )

    def _token(self, marker: str) -> str:
        """A marker as Lark writes it: the token that it is, or else a text."""
        return as_token(self._tokenizer, marker)


class GrammarConstraint:
    """The tokens that may follow by a grammar; one reply's."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        """In front of the first token.

        Raises:
            RequestError: the grammar is not valid, or cannot be met.
        """
        self._matcher = matcher
        if matcher.is_error():
            raise _refused(matcher)

    def copy(self) -> "GrammarConstraint":
        """Another in the same place. Copies share what they find out about the grammar, and the limit on its size."""
        return GrammarConstraint(self._matcher.deep_copy())

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped() and self._matcher.is_accepting())

    def mask(self, logits: np.ndarray) -> np.ndarray:
        """The logits of the tokens that may follow, and -inf for all others.   (V,) -> (V,)

        Raises:
            RequestError: none may, or finding them takes too much.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_stopped() and not self.is_complete:
            raise _refused(self._matcher)
        masked = np.full_like(logits, -np.inf)
        ids = np.flatnonzero(np.unpackbits(bits, bitorder="little")[: logits.size])
        masked[ids] = logits[ids]
        return masked

    def push(self, token: int) -> None:
        """Take in the token that follows.

        Raises:
            RequestError: it may not, or taking it in takes too much.
        """
        if not self._matcher.consume_token(token):
            raise _refused(self._matcher)


def _refused(matcher: llguidance.LLMatcher) -> RequestError:
    """The error of a matcher that has come to an end."""
    found = _NOISE.sub("", matcher.get_error()).strip() or matcher.stop_reason()
    reason = "one that no text meets" if found.startswith("NoExtension") else found
    return RequestError(
        f"a grammar must be one that a reply can meet within its limits; got {reason}; simplify it"
    )

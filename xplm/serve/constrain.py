"""What a request asks of the form of its replies: JSON, JSON of a schema, calls of tools."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xplm.errors import RequestError
from xplm.generate.constraint import Constraint, Unconstrained
from xplm.serve.errors import ApiError, GrammarError
from xplm.serve.grammar import ANY_OBJECT, GrammarConstraint, Grammars
from xplm.text.call_formats import CallFormat
from xplm.text.tools import Offer

UNKNOWN_CALLS = "the chat template shows no form of calls that is known; calls come as text"


NO_TOOLS = Offer([], None, False)


class Format(NamedTuple):
    """What answers have to look like."""

    schema: Mapping[str, Any] | None  # JSON Schema; None: any text
    offer: Offer
    call_format: CallFormat | None  # of the model
    calls_several: bool  # whether there may be more than one call at a time

    @property
    def finds_calls(self) -> bool:
        """Whether calls come apart from the answer."""
        return bool(self.offer.tools) and self.call_format is not None

    @property
    def has_grammar(self) -> bool:
        """Whether replies follow a grammar."""
        return self.schema is not None or self.offer.is_required

    def constraints(
        self, grammars: Grammars, prompt_ids: Sequence[int] | None, count: int
    ) -> list[Constraint]:
        """What restricts each of several replies; a grammar is compiled once for all.

        Args:
            grammars: of the model.
            prompt_ids: of a chat; None: of a completion, where no thoughts come first.
            count: of replies, at least 1.

        Raises:
            ApiError: the schema, or that of a tool, is not one that can be followed.
        """
        try:
            first = self._compile(grammars, prompt_ids)
            if first is None:
                return [Unconstrained()] * count
            return [Blamed(first), *(Blamed(first.copy()) for _ in range(count - 1))]
        except RequestError as error:
            param = "tools" if self.schema is None else "response_format"
            raise ApiError(str(error), param=param, code="grammar") from error

    def _compile(
        self, grammars: Grammars, prompt_ids: Sequence[int] | None
    ) -> GrammarConstraint | None:
        if self.schema is not None:
            return grammars.json_schema(self.schema, prompt_ids)
        if self.offer.is_required and self.call_format is not None and prompt_ids is not None:
            several = self.calls_several
            return grammars.calls(self.call_format, self.offer.tools, prompt_ids, several=several)
        return None


class Blamed:
    """A constraint whose failure is the request's, not the model's."""

    def __init__(self, constraint: Constraint) -> None:
        """Wrap one."""
        self._constraint = constraint

    @property
    def is_complete(self) -> bool:
        """As the constraint's."""
        return self._constraint.is_complete

    def mask(self, logits: np.ndarray) -> np.ndarray:
        """As the constraint's.

        Raises:
            GrammarError: it fails.
        """
        try:
            return self._constraint.mask(logits)
        except RequestError as error:
            raise GrammarError(str(error)) from error

    def push(self, token: int) -> None:
        """As the constraint's.

        Raises:
            GrammarError: it fails.
        """
        try:
            self._constraint.push(token)
        except RequestError as error:
            raise GrammarError(str(error)) from error


def read_schema(response_format: Any) -> Mapping[str, Any] | None:
    """The schema that `response_format` asks for; None: any text.

    Raises:
        ApiError: it is malformed.
    """
    if response_format is None:
        return None
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        schema = response_format.get("schema", ANY_OBJECT)  # llama.cpp's field
    elif kind == "json_schema":
        named = response_format.get("json_schema")
        schema = named.get("schema", ANY_OBJECT) if isinstance(named, Mapping) else None
    else:
        raise ApiError(
            f"response_format must be of type text, json_object or json_schema; got {kind!r:.40}",
            param="response_format",
        )
    if not isinstance(schema, Mapping):
        raise ApiError(
            f"response_format must hold a JSON schema, an object; got {schema!r:.40}",
            param="response_format",
        )
    return schema

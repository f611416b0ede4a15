"""How a model chats: its templates, what ends a turn, and how thoughts are told from the answer."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from xplm.errors import RequestError
from xplm.generate.transcript import REASONING
from xplm.text.chat import Message
from xplm.text.chat_encoder import ChatEncoder
from xplm.text.thoughts import ReplyFormat, find_format, reasoning_key
from xplm.text.tokenizer import Tokenizer

OWN_NAMES = ("messages", "add_generation_prompt", "now")
"""Names that a template is given by the conversation itself."""


class ChatFormat:
    """The chat format of one model.

    Attributes:
        encoder: from messages to token ids.
        reply_format: how thoughts are told from the answer.
    """

    def __init__(self, tokenizer: Tokenizer, context: int) -> None:
        """Take a model's.

        Args:
            tokenizer: the model's.
            context: tokens that a conversation has to fit.

        Raises:
            TemplateError: the model has no chat template, or one that is not valid.
        """
        self.encoder = ChatEncoder(tokenizer, context)
        self.reply_format = find_format(tokenizer)
        self._reasoning_key = reasoning_key(tokenizer)
        sources = [tokenizer.chat_template or "", *tokenizer.named_templates.values()]
        self._source = "\n".join(sources)

    def turn_end_ids(self, reply_format: ReplyFormat) -> list[int]:
        """Ids that end an answer of a form, besides the model's own end of sequence."""
        tokens = self.encoder.tokenizer.special_token_ids.items()
        ends = {token_id for token, token_id in tokens if reply_format.ends_reply(token)}
        return [token_id for token_id in self.encoder.turn_end_ids if token_id in ends]

    def reads(self, name: str) -> bool:
        """Whether a template has a word in it."""
        return re.search(rf"\b{re.escape(name)}\b", self._source) is not None

    def encode(self, messages: Sequence[Message], **variables: Any) -> list[int]:
        """The token ids that messages are answered from, thoughts under the name that the template reads.

        Raises:
            RequestError, TemplateError: as `ChatEncoder.encode`.
        """
        return self.encoder.encode([*map(self._for_template, messages)], **variables)

    def require_read(self, name: str, value: Any) -> None:
        """Refuse a template argument that is not the caller's to give, or that no template reads.

        Raises:
            RequestError: it is one.
        """
        if name in OWN_NAMES:
            raise RequestError(
                f'a template argument must not be one of {", ".join(OWN_NAMES)}; got "{name}"'
            )
        if name == "chat_template":  # chooses among those that have names
            if not isinstance(value, str):
                raise RequestError(f"chat_template must be a template's name; got {value!r:.40}")
            return
        if not self.reads(name):
            raise RequestError(
                f'a template argument must be read by the chat template; it has no "{name}"; check the name'
            )

    def _for_template(self, message: Message) -> Message:
        """A message with its thoughts where the template reads them; without, where it reads none."""
        if not isinstance(message, Mapping) or REASONING not in message:
            return message
        kept = {name: value for name, value in message.items() if name != REASONING}
        key = self._reasoning_key
        return kept | ({key: message[REASONING]} if key else {})

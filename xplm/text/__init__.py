"""Tokenizers, chat templates and streaming text."""

from xplm.text.chat import ChatTemplate, Message
from xplm.text.chat_encoder import ChatEncoder
from xplm.text.detokenize import StreamDecoder
from xplm.text.tokenizer import Tokenizer

__all__ = ["ChatEncoder", "ChatTemplate", "Message", "StreamDecoder", "Tokenizer"]

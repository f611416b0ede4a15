"""Text from a stream of token ids, in pieces that are never half a character.

A character can lie across tokens, and what a token prints can depend on its neighbours: byte-level BPE cuts UTF-8
anywhere, byte fallback spells a character in up to four tokens, SentencePiece drops the space that begins a text. So
the decoder keeps a window of ids, decodes it as a whole, and lets out what no later id can change:

    U+FFFD at the end      a character may be half there: held back
    byte-fallback token    the library judges a run of these as a whole, so it is held back until it ends

Once everything in a window is out, its last ids stay as the context of the next. Then the pieces, joined, are
`tokenizer.decode` of all the ids, whatever they are.
"""

from xplm.text.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"


class StreamDecoder:
    """Turns ids into pieces of text, one id at a time."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        """Start an empty stream.

        Args:
            tokenizer: the tokenizer that the ids are of.
            skip_special_tokens: leave out control tokens.
        """
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        special = tokenizer.special_token_ids.values() if skip_special_tokens else ()
        self._special_ids = frozenset(special)
        named = (tokenizer.pipeline.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
        self._byte_ids = frozenset(token_id for token_id in named if token_id is not None)
        self._window: list[
            int
        ] = []  # ids whose text is being put out; begins where a character begins
        self._n_context = 0  # ids at the window's start whose text is out
        self._n_out = 0  # characters of the window's text that are out

    def push(self, token_id: int) -> str:
        """Take the next id.

        Args:
            token_id: the id.

        Returns:
            The text that is certain now; empty while a character is incomplete.
        """
        if token_id in self._special_ids or self._tokenizer.pipeline.id_to_token(token_id) is None:
            return ""
        self._window.append(token_id)
        if token_id in self._byte_ids:
            return ""

        text = self._text()
        certain = text.rstrip(_REPLACEMENT)
        piece = certain[self._n_out :]
        self._n_out += len(piece)
        if piece and certain == text:
            del self._window[: self._n_context]
            self._n_context = len(self._window)
            self._n_out = len(self._text())
        return piece

    def settle(self) -> str:
        """Let out what is held back, because something that is no text stands behind it; the stream goes on.

        Returns:
            The rest of the text so far; U+FFFD stands for what has not become a character.
        """
        text = self._text()
        piece = text[self._n_out :]
        self._n_context, self._n_out = len(self._window), len(text)
        return piece

    def flush(self) -> str:
        """End the stream.

        Returns:
            The rest of the text; U+FFFD stands for what never became a character. The decoder is empty again.
        """
        piece = self._text()[self._n_out :]
        self._window, self._n_context, self._n_out = [], 0, 0
        return piece

    def _text(self) -> str:
        return self._tokenizer.decode(self._window, skip_special_tokens=self._skip_special_tokens)

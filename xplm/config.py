"""A decoder's configuration: its blocks, its two tables, and its special tokens.

`xplm.models.families` reads it from Hugging Face's config.json and writes it there; fields that config.json has keep
its names.
"""

import logging
from dataclasses import dataclass, replace
from reprlib import repr as shown  # a value of any length, cut short

from xplm.errors import RequestError
from xplm.rope_scaling import stretched_context
from xplm.specs import BlockSpec, NormSpec, RopeSpec

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DecoderConfig:
    """Everything that decides a decoder's shapes and arithmetic."""

    model_type: str
    """The family, as config.json names it."""
    vocab_size: int
    """V, rows of the embedding."""
    hidden_size: int
    """C, width of the residual stream."""
    max_position_embeddings: int
    """Positions."""
    blocks: tuple[BlockSpec, ...]
    """The layers, from the embedding to the head."""
    norm: NormSpec
    """Before the head."""
    has_learned_positions: bool
    """Whether an embedding of the position is added to that of the token."""
    tie_word_embeddings: bool
    """Whether the embedding is the head too."""
    position_offset: int = 0
    """Rows of the table of positions before that of position 0."""
    head_bias: bool = False
    """Whether the head has a bias."""
    embedding_scale: float = 1.0
    """Factor of the tokens' embeddings, rounded to the compute dtype, as Gemma rounds it."""
    logit_scale: float = 1.0
    """Factor of the head's output."""
    logit_cap: float | None = None
    """c: logits z, scaled, become c tanh(z / c); None: they are not capped."""
    initializer_range: float = 0.02
    """Standard deviation of initial weights."""
    bos_token_id: int | None = None
    """Begins a text."""
    eos_token_id: tuple[int, ...] = ()
    """Each ends a text."""
    pad_token_id: int | None = None
    """Fills up a batch."""
    context: int | None = None
    """Positions of a sequence, asked for; None: the model's own."""

    @property
    def num_hidden_layers(self) -> int:
        """L, blocks."""
        return len(self.blocks)

    @property
    def ropes(self) -> tuple[RopeSpec, ...]:
        """The kinds of rotary positions that the blocks use, in the order of their first use."""
        return tuple(dict.fromkeys(b.mixer.rope for b in self.blocks if b.mixer.rope is not None))

    @property
    def context_length(self) -> int:
        """The most positions a sequence may have, stretched RoPE included."""
        if self.context is not None:
            return self.context
        stretched = [stretched_context(rope) for rope in self.ropes]
        return min(stretched, default=self.max_position_embeddings)

    def with_context(self, context: int) -> "DecoderConfig":
        """The same decoder, whose sequences have at most `context` positions.

        Raises:
            RequestError: it is not a positive integer, or above the positions that the model has learned.
        """
        if isinstance(context, bool) or not isinstance(context, int) or context < 1:
            raise RequestError(
                f"a context must be a positive number of tokens; got {shown(context)}"
            )
        own = replace(self, context=None).context_length
        if context > own and self.has_learned_positions:
            raise RequestError(
                f"a context must be at most the {own} positions that this model has learned; got {context}"
            )
        if context > own:
            _log.warning(
                "a context of %d is above the %d positions that this model's configuration gives it; "
                "what it says beyond those may be poor",
                context,
                own,
            )
        return replace(self, context=context)

"""Tokenizers that learn their vocabulary from the data, and the chat template of the models trained with them.

    char   one token a character
    word   one token a word; punctuation, symbols, Han and Kana are tokens of their own
    bpe    byte-pair encoding of GPT-2's byte-level words: every text has ids, no unknown token is needed

A token of `word` that follows a space, or begins the text, is written with SentencePiece's mark in front: `it's (27.3)`
is ▁it ' s ▁( 27 . 3 ), and decoding gives the spaces back where they were. Other white space becomes one space.

All three are pipelines of the tokenizers library alone, so that the tokenizer.json they are saved as loads anywhere.
Chat needs a token for each speaker; it is there from the start, so that tuning adds none to a pre-trained model.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Pipeline

from xplm.errors import TokenizerError
from xplm.text.parts import TokenizerParts, unique_ids
from xplm.text.tokenizer import Tokenizer

UNKNOWN, END, USER, ASSISTANT = "<unk>", "</s>", "<|user|>", "<|assistant|>"

CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}
        {{- message['content'] -}}
    {%- elif message['role'] == 'user' -%}
        {{- '<|user|>' + message['content'] -}}
    {%- elif message['role'] == 'assistant' -%}
        {{- '<|assistant|>' + message['content'] + '</s>' -}}
    {%- else -%}
        {{- raise_exception('a role is system, user or assistant, got ' + message['role']) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|assistant|>' -}}
{%- endif -%}
"""

MAX_VOCAB_SIZE = 2**24
"""Tokens, some ten times those of the largest vocabulary in use. A trainer of BPE makes room for all of them at once,
and ends the process where it cannot."""

_ALL_FOUND = 2**31 - 1  # a vocabulary size that no data reaches
_ONE_CHARACTER = r"[\s\S]"
_STANDS_ALONE = r"▁?[[\p{P}\p{S}]&&[^▁]]|▁?[\p{Han}\p{Hiragana}\p{Katakana}]"
_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


class _Kind(NamedTuple):
    model: Callable[[], Any]  # with an empty vocabulary
    pre_tokenizer: Callable[[], Any]
    decoder: Callable[[], Any]
    trainer: Callable[..., Any]
    special_tokens: tuple[str, ...]
    alphabet: tuple[str, ...] = ()  # tokens that are there whatever the data holds


TOKENIZER_KINDS = {
    "char": _Kind(
        model=lambda: models.WordLevel(unk_token=UNKNOWN),
        pre_tokenizer=lambda: pre_tokenizers.Split(Regex(_ONE_CHARACTER), "isolated"),
        decoder=decoders.Fuse,
        trainer=trainers.WordLevelTrainer,
        special_tokens=(UNKNOWN, END, USER, ASSISTANT),
    ),
    "word": _Kind(
        model=lambda: models.WordLevel(unk_token=UNKNOWN),
        pre_tokenizer=lambda: pre_tokenizers.Sequence(
            [
                pre_tokenizers.WhitespaceSplit(),
                pre_tokenizers.Metaspace(prepend_scheme="always", split=False),
                pre_tokenizers.Split(Regex(_STANDS_ALONE), "isolated"),
            ]
        ),
        decoder=lambda: decoders.Metaspace(prepend_scheme="always"),
        trainer=trainers.WordLevelTrainer,
        special_tokens=(UNKNOWN, END, USER, ASSISTANT),
    ),
    "bpe": _Kind(
        model=models.BPE,
        pre_tokenizer=lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoder=decoders.ByteLevel,
        trainer=lambda **options: trainers.BpeTrainer(initial_alphabet=_BYTES, **options),
        special_tokens=(END, USER, ASSISTANT),
        alphabet=tuple(_BYTES),
    ),
}


def train_tokenizer(kind: str, texts: Iterable[str], *, vocab_size: int | None = None) -> Tokenizer:
    """Learn a vocabulary.

    Args:
        kind: a name in TOKENIZER_KINDS.
        texts: the data; read once, and not kept.
        vocab_size: the most tokens, special ones included; of characters and words the most frequent are kept.
            At most MAX_VOCAB_SIZE. None: all that the data holds, which `bpe` does not offer.

    Returns:
        A tokenizer without a chat template; the same data gives the same one.

    Raises:
        TokenizerError: no such kind, a vocabulary that is too small or too large, or no text.
    """
    row = TOKENIZER_KINDS.get(kind)
    if row is None:
        raise TokenizerError(
            f"a tokenizer is trained as {' | '.join(TOKENIZER_KINDS)}, got {kind!r}"
        )
    if vocab_size is not None and vocab_size > MAX_VOCAB_SIZE:
        raise TokenizerError(
            f"a vocabulary has at most {MAX_VOCAB_SIZE:,} tokens; got {vocab_size}; set a smaller vocab_size"
        )
    least = len(row.special_tokens) + len(row.alphabet) + 1
    if vocab_size is None and not row.alphabet:
        vocab_size = _ALL_FOUND
    if vocab_size is None or vocab_size < least:
        raise TokenizerError(
            f"the vocabulary of a {kind} tokenizer has at least {least} tokens, got {vocab_size}: "
            "set a larger vocab_size"
        )

    pipeline = Pipeline(row.model())
    pipeline.pre_tokenizer = row.pre_tokenizer()
    pipeline.decoder = row.decoder()
    trainer = row.trainer(
        vocab_size=vocab_size, special_tokens=list(row.special_tokens), show_progress=False
    )
    pipeline.train_from_iterator(texts, trainer)
    if pipeline.get_vocab_size() < least:
        raise TokenizerError(f"a {kind} tokenizer needs text to learn from, and the data has none")

    names = {"eos_token": END, "pad_token": END}
    if UNKNOWN in row.special_tokens:
        names["unk_token"] = UNKNOWN
    return Tokenizer(TokenizerParts(pipeline, names, unique_ids([pipeline.token_to_id(END)]), None))


def with_chat_template(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer that is fit for chat.

    Args:
        tokenizer: any; one that came with a chat template stays as it is.

    Returns:
        The tokenizer, with CHAT_TEMPLATE if it had none.

    Raises:
        TokenizerError: it has no template and lacks the special tokens of CHAT_TEMPLATE.
    """
    if tokenizer.chat_template is not None or tokenizer.named_templates:
        return tokenizer
    ids = [tokenizer.pipeline.token_to_id(token) for token in (USER, ASSISTANT, END)]
    if any(token_id is None or not tokenizer.is_special(token_id) for token_id in ids):
        raise TokenizerError(
            f"a chat template needs the special tokens {USER} {ASSISTANT} {END}, and this tokenizer lacks one: "
            "take a model that was tuned for chat, or train a tokenizer"
        )
    return Tokenizer(tokenizer.parts._replace(chat_template=CHAT_TEMPLATE))

"""Special tokens that the model of a tokenizer finds in a text by itself are plain text too, where they should be."""

import pytest
import tokenizers
from tokenizers import AddedToken, models, pre_tokenizers

from tests.text.directories import byte_level
from xplm.text.chat_encoder import ChatEncoder
from xplm.text.documents import encode_texts
from xplm.text.parts import TokenizerParts
from xplm.text.tokenizer import Tokenizer

UNK, END = 0, 2
LETTERS = ["<", "/", "s", ">", "a", "b"]


def unigram() -> tokenizers.Tokenizer:
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((letter, -4.0) for letter in LETTERS)]
    return tokenizers.Tokenizer(models.Unigram([*pieces, ("ab", -5.0)], UNK, False))


def byte_pairs(**options: bool) -> tokenizers.Tokenizer:
    tokens = ["<unk>", "<s>", "</s>", *LETTERS, "</", "s>", "ab"]
    merges = [("<", "/"), ("s", ">"), ("</", "s>"), ("a", "b")]
    vocab = {token: i for i, token in enumerate(tokens)}
    return tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", **options))


def words() -> tokenizers.Tokenizer:
    vocab = {"<unk>": UNK, "<s>": 1, "</s>": END, "ab": 3}
    pipeline = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    pipeline.pre_tokenizer = pre_tokenizers.Split("|", "removed")
    return pipeline


@pytest.mark.parametrize(
    ("pipeline", "ab", "spelled"),
    [
        (unigram(), [9], [3, 4, 5, 6]),
        (byte_pairs(), [11], [9, 10]),
        (byte_pairs(ignore_merges=True), [11], [9, 10]),
        (words(), [3], [UNK]),
    ],
    ids=["Unigram", "BPE", "whole words", "WordLevel"],
)
def test_a_special_token_of_the_model_s_vocabulary_is_not_found_in_plain_text(
    pipeline: tokenizers.Tokenizer, ab: list[int], spelled: list[int]
) -> None:
    pipeline.add_special_tokens(["<unk>", "<s>", "</s>", "<more>"])
    pipeline.add_tokens(["<tool>"])
    tool = pipeline.token_to_id("<tool>")
    template = "<s>{{ messages[0].content }}</s>"
    tokenizer = Tokenizer(TokenizerParts(pipeline, {"eos_token": "</s>"}, (END,), template))
    assert tokenizer.encode("ab</s><tool>") == [*ab, END, tool]
    plain = [*ab, *spelled, tool]
    text = "ab|</s><tool>" if pipeline.pre_tokenizer else "ab</s><tool>"
    assert tokenizer.encode(text, allow_special=False) == plain
    assert [ids.tolist() for ids in encode_texts(tokenizer, [text])] == [[*plain, END]]
    chat = ChatEncoder(tokenizer).encode([{"role": "user", "content": text}])
    assert chat == [1, *plain, END]


def test_a_special_token_of_one_character_is_the_template_s_alone() -> None:
    pipeline = byte_level()
    pipeline.add_special_tokens([AddedToken("\u203b", normalized=False)])
    template = "<s>{{ messages[0].content }}\u203b"
    tokenizer = Tokenizer(TokenizerParts(pipeline, {}, (), template))
    ids = ChatEncoder(tokenizer).encode([{"role": "user", "content": "a\u203bb"}])
    mark = pipeline.token_to_id("\u203b")
    assert ids == [0, *tokenizer.encode("a\u203bb", allow_special=False), mark]
    assert ids.count(mark) == 1

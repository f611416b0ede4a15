"""Control tokens of a GGUF file and the ends of a reply, known by id and by text whatever their types say."""

import pytest
from gguf import TokenType

from tests.text.vocabularies import byte_level_metadata, sentencepiece_metadata
from xplm.text.control_tokens import ENDS, find_ends
from xplm.text.tokenizer import Tokenizer

NORMAL, CONTROL, USER_DEFINED = map(
    int, (TokenType.NORMAL, TokenType.CONTROL, TokenType.USER_DEFINED)
)


def with_tokens(*tokens, kind=NORMAL, **changes):
    metadata = byte_level_metadata("gpt-2", ["h i"])
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"], *tokens]
    metadata["tokenizer.ggml.token_type"] = [
        *metadata["tokenizer.ggml.token_type"],
        *[kind] * len(tokens),
    ]
    return metadata | {f"tokenizer.{name}": value for name, value in changes.items()}


def id_of(tokenizer, token):
    return tokenizer.pipeline.token_to_id(token)


@pytest.mark.parametrize("kind", [NORMAL, CONTROL, USER_DEFINED])
@pytest.mark.parametrize("token", [end for end in ENDS if end not in ("<|end|>", "<|im_end|>")])
def test_an_end_is_known_by_its_text(token, kind):
    tokenizer = Tokenizer.from_gguf(with_tokens(token, kind=kind))
    end = id_of(tokenizer, token)
    assert tokenizer.eos_token_ids[0] == 2
    assert end in tokenizer.eos_token_ids
    assert tokenizer.encode(f"a{token}b")[1] == end
    assert tokenizer.decode(tokenizer.encode(f"a{token}b")) == "ab"


def test_all_types_normal_and_tokens_still_are_one_id():
    metadata = byte_level_metadata("gpt-2", ["h i"])
    expected = Tokenizer.from_gguf(metadata)
    for types in (None, [NORMAL] * len(metadata["tokenizer.ggml.tokens"])):
        metadata["tokenizer.ggml.token_type"] = types
        if types is None:
            del metadata["tokenizer.ggml.token_type"]
        tokenizer = Tokenizer.from_gguf(metadata)
        for text in ("a<|im_start|>hi<|im_end|>", "<|end|>"):
            assert tokenizer.encode(text) == expected.encode(text)
            assert tokenizer.decode(tokenizer.encode(text)) == expected.decode(
                expected.encode(text)
            )


def test_what_looks_like_a_control_token_is_one_if_the_template_writes_it():
    template = "[INST]{{ messages[0].content }}<turn> user"
    tokens = ["[INST]", "<turn>", "<div>", "user"]
    tokenizer = Tokenizer.from_gguf(with_tokens(*tokens, chat_template=template))
    assert [tokenizer.is_special(id_of(tokenizer, t)) for t in tokens] == [True, True, False, False]
    assert len(tokenizer.encode("[INST]<turn>")) == 2
    assert len(tokenizer.encode("<div>")) == 5


def test_a_token_that_text_becomes_is_none():
    metadata = byte_level_metadata("gpt-2", ["< |", "<| a", "<|a |", "<|a| >"])
    metadata["tokenizer.ggml.bos_token_id"] = metadata["tokenizer.ggml.tokens"].index("!")
    tokenizer = Tokenizer.from_gguf(metadata)
    assert not tokenizer.is_special(id_of(tokenizer, "<|a|>"))
    assert not tokenizer.is_special(id_of(tokenizer, "!"))


def test_sentencepiece_too():
    metadata = sentencepiece_metadata({"a": -1.0, "<|im_end|>": 0.0, "<|x|>": 0.0})
    tokenizer = Tokenizer.from_gguf(metadata)
    end = id_of(tokenizer, "<|im_end|>")
    assert tokenizer.eos_token_ids == (2, end)
    assert tokenizer.encode("<|im_end|><|x|>", add_special_tokens=False) == [end, end + 1]


def test_an_end_that_is_none_beside_others():
    def ends(*tokens):
        return find_ends({token: token_id for token_id, token in enumerate(tokens)})

    assert ends("<|end|>", "<|return|>", "<|call|>") == [1, 2]
    assert ends("</s>", "<|tool_response>") == [1]
    assert ends("<reponame>", "<|file_sep|>", "a") == [0, 1]


def test_further_chat_templates():
    metadata = with_tokens(**{"chat_template": "one", "chat_template.tool_use": "two"})
    tokenizer = Tokenizer.from_gguf(metadata)
    assert (tokenizer.chat_template, tokenizer.named_templates) == ("one", {"tool_use": "two"})

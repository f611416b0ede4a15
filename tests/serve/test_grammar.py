"""Replies under a grammar: exactly the texts of the grammar pass the mask."""

import json

import numpy as np
import pytest
import tokenizers
from tokenizers import models

from tests.generate.thinkers import FORMS
from tests.generate.tiny import tiny_model, tiny_tokenizer
from tests.text.vocabularies import byte_level_metadata, sentencepiece_metadata
from xplm.errors import RequestError
from xplm.generate.options import SamplingOptions
from xplm.generate.reply import start_reply
from xplm.generate.request import Request
from xplm.generate.scheduler import Scheduler
from xplm.page_pool import PagePool
from xplm.text.parts import TokenizerParts
from xplm.text.thoughts import Plain, find_format
from xplm.text.tokenizer import Tokenizer

pytest.importorskip("llguidance", reason='needs the extra "serve"')

from xplm.serve.grammar import MOST_CHARS, Grammars, json_rule  # needs llguidance

TINY = Grammars(tiny_tokenizer(), Plain(), (1,))

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}},
    "$ref": "#/$defs/tree",
}

SCHEMAS = [
    ({"type": "object"}, ["{}", '{"a": [1, null]}', '{"a":{"b":"é☃\\n"}}'], ["[]", "1", "{a:1}"]),
    (PERSON, ['{"name": "Ada"}', '{"name":"Ada","age":36}'], ["{}", '{"name":"Ada","age":151}']),
    (PERSON, ['{"name": "Ada", "age": 0}'], ['{"name": "Ada", "x": 1}', '{"name": "Adaline"}']),
    ({"enum": ["red", 3, None]}, ['"red"', "3", "null"], ['"blue"', "4"]),
    ({"const": {"a": 1}}, ['{"a": 1}'], ['{"a": 2}', "{}"]),
    ({"type": ["integer", "null"]}, ["-12", "null"], ["1.5", '"1"']),
    ({"type": "number", "exclusiveMinimum": 0}, ["0.5", "7"], ["0", "-1"]),
    ({"type": "integer", "multipleOf": 5}, ["0", "15"], ["3"]),
    ({"type": "string", "pattern": "^[a-c]{2,3}$"}, ['"ab"', '"abc"'], ['"a"', '"abd"']),
    ({"type": "string", "format": "date"}, ['"2024-02-29"'], ['"2024-13-01"', '"today"']),
    ({"anyOf": [{"type": "boolean"}, {"type": "string"}]}, ["true", '"x"'], ["1"]),
    ({"type": "array", "prefixItems": [{"const": 1}], "items": False}, ["[1]"], ["[2]", "[1, 1]"]),
    ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, ["[1, 2, 3]"], ["[1]", "[]"]),
    (TREE, ["[]", "[[], [[]]]"], ["[[], [], []]", "[1]"]),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, ['{"a":1}'], ['{"a":"b"}']),
]


def follows(constraint, ids, n_vocab=258):
    """Whether the mask lets every token through, and the grammar could end there."""
    for token in ids:
        if constraint.is_complete:
            return False
        masked = constraint.mask(np.zeros(n_vocab, np.float32))
        assert set(np.unique(masked)) <= {0.0, -np.inf}
        if masked[token] != 0.0:
            return False
        constraint.push(token)
    return constraint.is_complete or bool(np.isfinite(constraint.mask(np.zeros(n_vocab)))[1])


@pytest.mark.parametrize(("schema", "good", "bad"), SCHEMAS)
def test_exactly_the_texts_of_a_schema_pass(schema, good, bad):
    for texts, expected in ((good, True), (bad, False)):
        for text in texts:
            ids = tiny_tokenizer().encode(text, add_special_tokens=False)
            assert follows(TINY.json_schema(schema), ids) == expected, text


def test_white_space_between_tokens_is_bounded():
    for text, expected in [('{\n    "a":\n\t1}', True), ('{  "a": 1}', False), ("\n{}", False)]:
        ids = tiny_tokenizer().encode(text, add_special_tokens=False)
        assert follows(TINY.json_schema(), ids) == expected, text


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "objekt"}, "Invalid type: objekt"),
        ({"not": {"type": "string"}}, "Unimplemented keys"),
        ({"enum": []}, "Unsatisfiable"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "Unsatisfiable"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"$ref": "http://example.com/schema"}, "http://example.com/schema"),
        ({"anyOf": [{"const": str(n) * 20} for n in range(5000)]}, f"at most {MOST_CHARS}"),
        ({"allOf": [{"anyOf": [{"required": [f"{i}{j}"]} for i in range(9)]} for j in range(9)]}, "large"),
        ("object", "must be an object"),
        ([], "must be an object"),
    ],
)  # fmt: skip
def test_a_schema_that_grammars_cannot_follow_gets_one_clear_line(schema, message):
    with pytest.raises(RequestError, match=message) as caught:
        TINY.json_schema(schema)
    assert "\n" not in str(caught.value)
    assert "x-guidance" not in str(caught.value)


def test_a_grammar_that_nothing_meets_ends_at_its_mask():
    with pytest.raises(RequestError, match="one that no text meets"):
        TINY.json_schema({"$ref": "#"}).mask(np.zeros(258, np.float32))
    with pytest.raises(RequestError, match="must be one that a reply can meet"):
        TINY.json_schema().push(5)


def test_a_model_may_have_more_tokens_than_its_tokenizer():
    masked = TINY.json_schema().mask(np.zeros(300, np.float32))
    assert np.flatnonzero(np.isfinite(masked)).tolist() == tiny_tokenizer().encode("{")


@pytest.mark.parametrize(
    "metadata",
    [
        byte_level_metadata("smollm", ["a b", '{ "', '" :']),
        sentencepiece_metadata({"\u2581": -1.0, "a": -2.0, "\u2581a": -0.5, '{"': -0.5}),
    ],
)
def test_tokenizers_of_gguf_files_take_grammars(metadata):
    tokenizer = Tokenizer.from_gguf(metadata)
    grammars = Grammars(tokenizer, Plain(), tokenizer.eos_token_ids)
    for text, expected in [('{"ab": "é a"}', True), ('{"ab": 1, a}', False)]:
        constraint = grammars.json_schema()
        ids = grammars._read_tokens().tokenize_str(text)
        assert follows(constraint, ids, tokenizer.vocab_size) == expected
        assert constraint.is_complete == expected


def test_tokenizers_that_grammars_cannot_follow_are_refused():
    words = tokenizers.Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    tokenizer = Tokenizer(TokenizerParts(words, {}, (1,), None))
    for grammars, message in (
        (Grammars(tokenizer, Plain(), (1,)), "tokens are bytes or SentencePiece's"),
        (Grammars(tiny_tokenizer(), Plain(), ()), "a token that ends a reply"),
    ):
        with pytest.raises(RequestError, match=message):
            grammars.json_schema()


@pytest.mark.parametrize(
    ("form", "prompt", "good", "bad"),
    [
        ("tags, no tokens", "", ["{}", "<think>{</think>\n\n{}", "\n<think></think>{}"], ["a{}"]),
        ("tags, special tokens", "", ["{}", "<think>{</think>\n\n{}"], ["<think>{}", "</think>{}"]),
        ("tags, tokens of the text", "", ["{}", "<think>{</think>\n\n{}"], ["<think>{}"]),
        ("opened", "<think>\n", ["{</think>\n\n{}", "</think>{}"], ["{}", "<think>{}"]),
        (
            "channels",
            "<|start|>assistant",
            [
                "<|channel|>final<|message|>{}",
                "<|channel|>analysis<|message|>a{<|end|><|start|>assistant<|channel|>final<|message|>{}",
            ],
            ["{}", "<|channel|>analysis<|message|>{}", "<|channel|>final<|message|>a"],
        ),
    ],
)
def test_thoughts_come_before_the_grammar(form, prompt, good, bad):
    tokenizer = FORMS[form]
    grammars = Grammars(tokenizer, find_format(tokenizer), (1,))
    prompt_ids = tokenizer.encode(prompt or "a", add_special_tokens=False)
    for texts, expected in ((good, True), (bad, False)):
        for text in texts:
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert (
                follows(grammars.json_schema({"type": "object"}, prompt_ids), ids, 300) == expected
            )


def test_replies_of_a_model_are_valid_and_one_that_fails_ends_alone():
    lm = tiny_model()
    scheduler = Scheduler(lm.engine, PagePool(lm.rt, lm.config))

    def submit(seed, constraint):
        options = SamplingOptions(max_new_tokens=120, temperature=1.0, seed=seed)
        reply = start_reply(
            lm.engine, lm.tokenizer, [5, 6], options, continues_prompt=False, constraint=constraint
        )
        scheduler.submit(Request(reply))
        return reply

    good = [submit(n, TINY.json_schema(PERSON)) for n in range(4)]
    bad = submit(9, TINY.json_schema({"$ref": "#"}))
    errors = []
    while not scheduler.is_idle:
        errors += [event for event in scheduler.step() if event.error is not None]
    assert [event.request.reply for event in errors] == [bad]
    for reply in good:
        person = json.loads(reply.text)
        assert set(person) <= {"name", "age"}
        assert len(person["name"]) <= 5
        assert reply.finish_reason == "stop"


def test_a_rule_of_json_ignores_directions_to_llguidance():
    rule = json_rule({"type": "object", "x-guidance": {"whitespace_pattern": ".*"}})
    assert rule == json_rule({"type": "object"})

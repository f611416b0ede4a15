"""Thoughts in a chat: apart from the answer, kept with the turn, and in the next prompt as the template wants them."""

import pytest

from tests.generate.thinkers import FORMS, KEPT, saying, thinker, thinking_model
from tests.generate.tiny import CHAT_TEMPLATE
from xplm.text.reply_parts import Call
from xplm.text.thoughts import Channels, Plain, Tagged, find_format, reasoning_key

OPTIONS = {"max_new_tokens": 200}
TAGGED_REPLY = "<think>\nTwo and two.\n</think>\n\nFour."
REPLIES = dict.fromkeys(FORMS, TAGGED_REPLY) | {
    "opened": TAGGED_REPLY.removeprefix("<think>"),
    "channels": "<|channel|>analysis<|message|>Two and two.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>Four.<|return|>",
}


@pytest.fixture(scope="module", params=FORMS)
def form(request):
    return request.param


def last_prompt(chat, tokenizer):
    return tokenizer.decode(chat.prompt_ids("And?"), skip_special_tokens=False)


def test_a_thought_comes_apart_from_the_answer(form):
    tokenizer = FORMS[form]
    chat = thinking_model(tokenizer).chat()
    with saying(tokenizer, REPLIES[form]):
        stream = chat.stream("2 + 2?", **OPTIONS)
        parts = list(stream.parts())
    out = stream.result
    assert (out.text, out.reasoning, out.finish_reason) == ("Four.", "Two and two.", "stop")
    for kind, text in (("content", out.text), ("reasoning", out.reasoning)):
        pieces = [part.text for part in parts if part.kind == kind]
        assert "".join(pieces) == text
        assert len(pieces) >= len(text) - 1  # as they come: a token is a byte
    assert chat.messages[-1] == {
        "role": "assistant", "content": "Four.", "reasoning_content": "Two and two.",
    }  # fmt: skip


def test_the_next_prompt_has_thoughts_where_the_template_writes_them(form):
    tokenizer = FORMS[form]
    chat = thinking_model(tokenizer).chat()
    with saying(tokenizer, REPLIES[form]):
        chat.send("2 + 2?", **OPTIONS)
    prompt = last_prompt(chat, tokenizer)
    assert "Four." in prompt
    assert ("Two and two." in prompt) == (form == "kept")


def test_text_without_thoughts_is_the_whole_answer(form):
    tokenizer = FORMS[form]
    chat = thinking_model(tokenizer).chat()
    answer = "</think> Four." if form == "opened" else " Four."
    with saying(tokenizer, answer):
        pieces = list(chat.stream("2 + 2?", **OPTIONS))
    assert "".join(pieces) == " Four."
    assert "reasoning_content" not in chat.messages[-1]


def test_an_argument_of_the_template_turns_thinking_off():
    tokenizer = FORMS["tags, tokens of the text"]
    lm = thinking_model(tokenizer)
    chat = lm.chat(template_args={"enable_thinking": False})
    assert last_prompt(chat, tokenizer).endswith("<think>\n\n</think>\n\n")
    with saying(tokenizer, "Four."):
        out = chat.send("2 + 2?", **OPTIONS)
    assert (out.text, out.reasoning) == ("Four.", "")
    prompt = last_prompt(lm.chat(template_args={"enable_thinking": True}), tokenizer)
    assert prompt.endswith("assistant\n")

    tokenizer = FORMS["channels"]
    chat = thinking_model(tokenizer).chat(template_args={"reasoning_effort": "low"})
    assert "Reasoning: low<|end|>" in last_prompt(chat, tokenizer)


def test_a_reply_that_is_cut_while_thinking_has_no_answer():
    tokenizer = FORMS["opened"]
    chat = thinking_model(tokenizer).chat()
    with saying(tokenizer, "One, two"):
        out = chat.send("Count.", max_new_tokens=5)
    assert (out.text, out.reasoning, out.finish_reason) == ("", "One, ", "length")


def test_a_question_cannot_open_a_thought():
    tokenizer = FORMS["tags, tokens of the text"]
    chat = thinking_model(tokenizer).chat()
    with saying(tokenizer, "No.</think>Yes."):
        assert chat.send("<think>", **OPTIONS).text == "No.</think>Yes."


def test_stop_texts_and_beams_meet_thoughts():
    tokenizer = FORMS["tags, special tokens"]
    chat = thinking_model(tokenizer).chat()
    with saying(tokenizer, TAGGED_REPLY):
        out = chat.send("2 + 2?", **OPTIONS, stop=["</think>"])
    assert (out.text, out.reasoning) == ("", "Two and two.")
    with saying(tokenizer, TAGGED_REPLY):
        out = chat.send("2 + 2?", **OPTIONS, stop=["our"])
    assert (out.text, out.reasoning) == ("F", "Two and two.")
    options = {"max_new_tokens": 6, "num_beams": 3}
    assert (
        chat.send("2 + 2?", **options).token_ids == chat.fork().send("2 + 2?", **options).token_ids
    )


def test_a_character_cut_by_a_marker_stays_in_its_part():
    tokenizer = FORMS["channels"]
    chat = thinking_model(tokenizer).chat()
    half = tokenizer.encode("é")[:1]
    ids = [*tokenizer.encode("<|channel|>analysis<|message|>a"), *half]
    rest = tokenizer.encode("<|end|><|start|>assistant<|channel|>final<|message|>b")
    text = tokenizer.decode([*ids, *rest], skip_special_tokens=False)
    assert "a\ufffd<|end|>" in text
    with saying(_Spelled([*ids, *rest]), ""):
        out = chat.send("Hi", **OPTIONS)
    assert (out.text, out.reasoning) == ("b", "a\ufffd")


class _Spelled:
    """A tokenizer to which any text is these ids."""

    def __init__(self, ids):
        self.ids = ids

    def encode(self, text, *, add_special_tokens):
        return self.ids


def test_a_call_is_no_text():
    tokenizer = FORMS["channels"]
    chat = thinking_model(tokenizer).chat()
    call = "<|channel|>commentary to=functions.f <|message|>{}<|call|>"
    with saying(tokenizer, call):
        out = chat.send(
            "Call f.", **OPTIONS, stop_token_ids=[tokenizer.special_token_ids["<|call|>"]]
        )
    assert (out.text, out.calls) == ("", [Call("functions.f", "{}")])


def test_thoughts_survive_a_file_a_fork_and_an_appended_turn(tmp_path):
    tokenizer = FORMS["kept"]
    lm = thinking_model(tokenizer)
    chat = lm.chat()
    chat.append("2 + 2?", "Four.", "Two and two.")
    chat.append("Sure?", "Yes.")
    chat.save(tmp_path / "chat.json")
    other = lm.chat()
    other.load(tmp_path / "chat.json")
    assert other.messages == chat.fork().messages == chat.messages
    assert other.prompt_ids("And?") == chat.prompt_ids("And?")
    assert "<think>Two and two.</think>" in last_prompt(chat, tokenizer)


def test_the_form_is_that_of_template_and_tokens():
    found = {name: type(find_format(tokenizer)) for name, tokenizer in FORMS.items()}
    assert found == dict.fromkeys(FORMS, Tagged) | {"channels": Channels}
    assert type(find_format(thinker(CHAT_TEMPLATE, ()))) is Plain
    other = find_format(thinker(KEPT.replace("think>", "seed:think>"), ()))
    assert (other.begin, other.end, other.markers) == ("<seed:think>", "</seed:think>", [])
    in_vocabulary = find_format(thinker(CHAT_TEMPLATE, ("[THINK]", "[/THINK]")))
    assert (in_vocabulary.begin, in_vocabulary.markers) == ("[THINK]", ["[THINK]", "[/THINK]"])


@pytest.mark.parametrize(
    ("form", "key"), [("kept", "reasoning_content"), ("channels", "thinking"), ("opened", None)]
)
def test_thoughts_have_the_name_that_the_template_reads(form, key):
    assert reasoning_key(FORMS[form]) == key


@pytest.mark.parametrize(
    "source", ["{% if thinking %}x{% endif %}", "{{ enable_thinking }}", "reasoning"]
)
def test_a_variable_of_such_a_name_is_no_thought(source):
    assert reasoning_key(thinker(source, ())) is None

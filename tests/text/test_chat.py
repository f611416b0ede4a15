"""Chat templates: the text that transformers renders, and one clear error for what cannot be rendered."""

from datetime import datetime
from typing import Any

import pytest

from tests.text.vocabularies import byte_level_metadata
from xplm.errors import TemplateError
from xplm.text.chat import ChatTemplate
from xplm.text.tokenizer import Tokenizer

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "  Hi <there> & 'you'  "},
    {"role": "assistant", "content": "Hello.\nWhat now?"},
    {"role": "user", "content": "日本語 👍 {{ 7 }}"},
]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"x": ["<", 1.5, None]}}}]

TEMPLATES = {
    "chatml": (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message['content'] | trim }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "blocks": (
        "{{- bos_token }}\n"
        "{%- set ns = namespace(system='', count=0) %}\n"
        "{%- for message in messages if message.role != 'system' %}\n"
        "    {%- if loop.index is divisibleby(2) %}\n"
        "        {%- continue %}\n"
        "    {%- endif %}\n"
        "    {%- set ns.count = ns.count + 1 %}\n"
        "    {%- set ns.system = ns.system ~ loop.index0 ~ ',' %}\n"
        "    {% if loop.last %}\n"
        "  last {{ ns.count }}\n"
        "    {% endif %}\n"
        "{{ message.content.split('\\n')[-1].strip() + eos_token }}\n"
        "{%- endfor %}\n"
        "{{ ns.system }}{{ messages[1:] | length }}{{ (1, 2)[0] }}{{ [1, 'a'] }}{{ {'k': none} }}"
    ),
    "macro": (
        "{% macro turn(message, end='|') %}[{{ message.role | upper }}]{{ message.content | replace('\\n', ' ') }}"
        "{{ end }}{% endmacro %}{% for m in messages %}{{ turn(m) }}{% endfor %}"
        "{% for a, b in {'x': 1, 'y': 2}.items() %}{{ a }}{{ b * 3 }}{% endfor %}"
        "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('+') }}"
        "{{ 'x' in 'xyz' and messages[0].role not in ['user'] }}{{ 'abc'[::-1] }}{{ '-' * 3 }}"
    ),
    "tools": (
        "{% if tools is not none %}{% for tool in tools %}{{ tool | tojson }}\n{{ tool | tojson(indent=2) }}"
        "{% endfor %}{% endif %}{{ documents is none }}{{ enable_thinking is defined }}"
    ),
    "names": (
        "{% set ns = namespace(self=1, **{'a': 2}) %}{% set ns.b = 3 %}{{ ns.a + ns.b + ns.self }}"
        "{% set c = cycler('x', 'y') %}{% set j = joiner(', ') %}"
        "{% for m in messages %}{{ j() }}{{ c.next() }}{% endfor %}{{ lipsum is defined }}"
        "{{ dict(a=1, **{'b': 2}) }}{{ dict.fromkeys('ab') }}{{ '%s-%05.1f' % ('a', 2.5) }}{{ '%d' | format(7) }}"
        "{{ '{0:>4}|{k}'.format(1, k=2) }}{{ '{a}'.format_map({'a': 1}) }}{{ 'a' | center(5) }}{{ 'a'.ljust(3) }}|"
        "{{ [1, 2, 3] | batch(2, 0) | list }}{{ [1, 2, 3] | slice(2) | list }}{{ 2.567 | round(1) }}{{ [1, 2] | sum }}"
        "{{ 'a b c' | wordwrap(3) }}{{ 'abcdefghij' | truncate(6, True) }}{{ messages | pprint }}{{ 2 ** 200 }}"
        "{{ '<a href=\"x\">' | escape | striptags }}{{ {'a': 1} | xmlattr }}{{ 'é' | urlencode }}"
    ),
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
}


@pytest.fixture(scope="module")
def transformers_tokenizer() -> Any:
    transformers = pytest.importorskip("transformers", reason="transformers is the reference here")
    pipeline = Tokenizer.from_gguf(byte_level_metadata("gpt-2", [])).pipeline
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=pipeline, bos_token="<|im_start|>", eos_token="<|im_end|>"
    )


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("variables", [{}, {"tools": TOOLS}, {"enable_thinking": False}])
@pytest.mark.parametrize("name", TEMPLATES)
def test_rendering_is_that_of_transformers(
    transformers_tokenizer: Any, name: str, variables: dict[str, Any], add_generation_prompt: bool
) -> None:
    special = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    template = ChatTemplate(TEMPLATES[name], special)
    expected = transformers_tokenizer.apply_chat_template(
        TALK,
        chat_template=TEMPLATES[name],
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        **variables,
    )
    rendered = template.render(TALK, add_generation_prompt=add_generation_prompt, **variables)
    assert rendered == expected
    assert rendered


@pytest.mark.nightly
def test_smollm2_greets_with_its_system_prompt(smollm2: Tokenizer) -> None:
    template = ChatTemplate.from_tokenizer(smollm2)
    assert template.render([{"role": "user", "content": "Hi"}]) == (
        "<|im_start|>system\n"
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert template.render(TALK[:1], add_generation_prompt=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
    )


def test_a_template_renders_again_and_again() -> None:
    template = ChatTemplate("{{ messages | length }}{{ strftime_now('%d %b %Y') }}")
    now = datetime(2024, 7, 26)
    assert [template.render(TALK[:n], now=now) for n in (1, 2)] == ["126 Jul 2024", "226 Jul 2024"]


def test_a_model_without_a_template_says_so() -> None:
    tokenizer = Tokenizer.from_gguf(byte_level_metadata("gpt-2", []))
    with pytest.raises(TemplateError, match="this model's tokenizer has none"):
        ChatTemplate.from_tokenizer(tokenizer)


def test_a_template_can_refuse_the_messages() -> None:
    template = ChatTemplate("{{ raise_exception('roles must\\nalternate') }}")
    with pytest.raises(TemplateError, match=r"^the chat template failed: roles must alternate$"):
        template.render(TALK)


@pytest.mark.parametrize(
    "message",
    [
        "hello",
        {"content": "no role"},
        {"role": 1, "content": "x"},
        {"role": "user", "content": object()},
        {"role": "user", "content": [{"type": "image", "image": b"\x00"}]},
    ],
)
def test_malformed_messages_are_refused(message: Any) -> None:
    with pytest.raises(TemplateError, match=r"a message (is|holds)"):
        ChatTemplate("{{ messages }}").render([message])


def test_content_is_not_a_template() -> None:
    content = "{{ 1 + 1 }}{% for %}"
    message = {"role": "user", "content": content}
    assert ChatTemplate("{{ messages[0].content }}").render([message]) == content

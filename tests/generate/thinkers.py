"""Tokenizers and chat templates of the forms that thinking models have, and a model that says what it is told to."""

from contextlib import contextmanager

import numpy as np
import pytest
import tokenizers

from tests.generate.tiny import tiny_model, tiny_tokenizer
from xplm.generate.engine import Engine
from xplm.text.tokenizer import Tokenizer

# A thought is written for the answers behind the last question; the prompt of a chat without thinking ends with an
# empty thought.
TAGGED = """\
{%- set last = messages | length - 1 %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- set content = m.content.split('</think>')[-1].lstrip('\\n') %}
{{- '<|im_start|>assistant\\n' }}
{%- if loop.index0 > last and m.reasoning_content %}
{{- '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}
{%- endif %}
{{- content + '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""

# The prompt opens the thought, and what is in front of the end of one is cut out of earlier answers.
OPENED = """\
{{- bos_token }}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '<|User|>' + m.content }}{% endif %}
{%- if m.role == 'assistant' %}{{ '<|Assistant|>' + m.content.split('</think>')[-1] + '<|im_end|>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|Assistant|><think>\\n' }}{% endif %}"""

# Thoughts of earlier answers are kept.
KEPT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\\n"
    "{% if m['reasoning_content'] %}<think>{{ m['reasoning_content'] }}</think>{% endif %}"
    "{{ m.content }}<|im_end|>\\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\\n{% endif %}"
)

CHANNELS = """\
{{- '<|start|>system<|message|>Reasoning: ' + reasoning_effort | default('medium') + '<|end|>' }}
{%- for m in messages %}
{%- if m.role == 'assistant' and loop.last and not add_generation_prompt %}
{%- if m.thinking %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}
{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' }}
{%- elif m.role == 'assistant' %}
{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}
{%- else %}
{{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"""

TURNS = ("<|im_start|>", "<|im_end|>", "<|User|>", "<|Assistant|>")
TAGS = ("<think>", "</think>")
HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>")


def thinker(template, special, plain=()):
    """One token a byte, and the tokens of a form of reply."""
    parts = tiny_tokenizer().parts
    pipeline = tokenizers.Tokenizer.from_str(parts.pipeline.to_str())
    pipeline.add_special_tokens([tokenizers.AddedToken(t, normalized=False) for t in special])
    pipeline.add_tokens([tokenizers.AddedToken(t, normalized=False) for t in plain])
    return Tokenizer(parts._replace(pipeline=pipeline, chat_template=template))


FORMS = {
    "tags, tokens of the text": thinker(TAGGED, TURNS, TAGS),
    "tags, special tokens": thinker(TAGGED, (*TURNS, *TAGS)),
    "tags, no tokens": thinker(TAGGED, TURNS),
    "opened": thinker(OPENED, TURNS, TAGS),
    "kept": thinker(KEPT, TURNS, TAGS),
    "channels": thinker(CHANNELS, HARMONY),
}


def thinking_model(tokenizer):
    """A tiny model with that tokenizer."""
    lm = tiny_model(vocab_size=300, max_position_embeddings=512)
    lm.tokenizer = tokenizer
    return lm


@contextmanager
def saying(tokenizer, text):
    """Have any model say a text, special tokens spelled out, and then token 1, which ends it, without end."""
    script = iter([*tokenizer.encode(text, add_special_tokens=False), 1])
    read = Engine.read

    def scripted(self, *arguments, **options):
        logits = np.zeros_like(read(self, *arguments, **options))
        logits[:, next(script, 1)] = 1.0
        return logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "read", scripted)
        yield

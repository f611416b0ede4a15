"""Texts that a model writes as it learns."""

from collections.abc import Sequence
from dataclasses import dataclass

from xplm.generate.engine import Engine
from xplm.generate.options import SamplingOptions
from xplm.generate.reply import start_reply
from xplm.generate.request import Request
from xplm.generate.scheduler import generate_steps
from xplm.text.chat_encoder import ChatEncoder
from xplm.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Sample:
    """A prompt, and how a model went on from it after a step."""

    step: int
    prompt: str
    text: str


def encode_prompts(tokenizer: Tokenizer, prompts: Sequence[str], *, chat: bool) -> list[list[int]]:
    """Ids of prompts; with `chat` each is a user's message, up to where the assistant begins.

    Raises:
        TemplateError: `chat`, and the tokenizer has no template.
    """
    if not chat or not prompts:
        return [tokenizer.encode(prompt) for prompt in prompts]
    encoder = ChatEncoder(tokenizer)
    return [encoder.encode([{"role": "user", "content": prompt}]) for prompt in prompts]


def draw_samples(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    options: SamplingOptions,
    *,
    chat: bool,
    step: int,
) -> list[Sample]:
    """Go on from each prompt. The coins depend on the options' seed alone, not on the step.

    Args:
        engine: the model.
        tokenizer: the model's.
        prompts: texts, or with `chat` messages.
        options: how to choose tokens.
        chat: answer each prompt as a message.
        step: how far the model is.

    Raises:
        RequestError: a prompt fills the model's context.
    """
    ends = ChatEncoder(tokenizer).turn_end_ids if chat and prompts else ()
    replies = [
        start_reply(engine, tokenizer, ids, options, continues_prompt=not chat, turn_end_ids=ends)
        for ids in encode_prompts(tokenizer, prompts, chat=chat)
    ]
    if not replies:
        return []
    for _ in generate_steps(engine, [Request(reply) for reply in replies]):
        pass
    return [Sample(step, p, r.text) for p, r in zip(prompts, replies, strict=True)]

"""Models with every kind of cache, and a reply computed from scratch: alone, densely, its prompt in one pass."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from tests.generate.tiny import tiny_model
from xplm.generate.options import SamplingOptions
from xplm.generate.reply import Reply, start_reply
from xplm.language_model import LanguageModel


class Acting(Protocol):
    """What does random operations, each checked, and lets go of everything at the end."""

    def act(self) -> None: ...

    def end(self) -> None: ...


World = TypeVar("World", bound=Acting)

TRAINED = 128
CONTEXT = 448

KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "window": {"model_type": "mistral", "sliding_window": 70},
    "mixed": {
        "model_type": "gemma3_text",
        "head_dim": 8,
        "sliding_window": 40,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 8,
    },
    "latent": {"model_type": "deepseek_v3", "num_key_value_heads": 4},
    "longrope": {
        "rope_scaling": {
            "rope_type": "longrope",
            "short_factor": [1.0, 1.5, 2.0, 2.5],
            "long_factor": [2.0, 5.0, 6.0, 7.0],
            "original_max_position_embeddings": TRAINED,
        },
    },
    "dynamic": {
        "rope_scaling": {"rope_type": "dynamic", "factor": CONTEXT / TRAINED},
        "max_position_embeddings": TRAINED,
    },
    "dynamic window": {
        "model_type": "mistral",
        "sliding_window": 70,
        "rope_scaling": {"rope_type": "dynamic", "factor": CONTEXT / TRAINED},
        "max_position_embeddings": TRAINED,
    },
}
"""Changes to the tiny model: kinds of cache, and rotations that depend on the length."""


def make_model(kind: str, policy: str = "fp32") -> LanguageModel:
    """A tiny model with order-invariant kernels."""
    changes = {"max_position_embeddings": CONTEXT} | KINDS[kind]
    lm = tiny_model(policy=policy, kernels="invariant", **changes)
    assert lm.engine.context == CONTEXT
    return lm


def compute_alone(
    lm: LanguageModel, prompt_ids: Sequence[int], options: SamplingOptions, **given: Any
) -> Reply:
    """A reply as it is without pages, neighbours or anything that was held; `given` as `start_reply` takes it."""
    given = {"continues_prompt": False} | given
    reply = start_reply(lm.engine, lm.tokenizer, prompt_ids, options, **given)
    ids, cache = list(prompt_ids), None
    while reply.finish_reason is None:
        if cache is None or lm.engine.outgrows(cache.length, 1):
            cache = lm.engine.allocate(1, len(prompt_ids) + reply.max_tokens)
        (logits,) = lm.engine.feed(cache, [ids[cache.length :]])
        reply.take(reply.choose(logits))
        ids = [*prompt_ids, *reply.ids]
    return reply


def play(world: World, kind: str, seed: int, count: int) -> World:
    """So many operations; the note of a failure says how to repeat it."""
    for n in range(count):
        try:
            world.act()
        except BaseException as fault:
            fault.add_note(f"operation {n} of {kind!r} with seed {seed}")
            raise
    world.end()
    return world

"""What a policy costs: bytes that decoding one token at a full window handles.

    cost = sum over parts of (numbers that the part handles) * (bits of its format) / 8

    part        numbers a token                                             what they are
    param       all parameters                                              each is read once; an embedding counts whole
    cache       2 L K D S                                                   keys and values of S positions
    compute     L (2 H D + 2 K D + 6 C + 4 F) + 2 C                         activations that pass between ops
    rope        2 L (H + K) D + D                                           rotated queries and keys, in and out; tables
    norm        2 C (2 L + 1)                                               rows in and out
    softmax     2 L H S                                                     scores and probabilities
    loss        V                                                           logits
    accumulate  parameters of matrix products / 16                          partial sums

H, K, D, C, F, V, L as in `xplm.typing`, S the window. Of a layer that keeps latents, their width stands for 2 K D, and
one head is rotated with the H of q. It is a model of traffic, not a clock: a format counts with the
bits that it has, whether or not this machine has hardware for it, and one that is emulated is slower than float32 and
takes as much memory. `matmul` has no cost of its own: operands are counted where they are stored.
"""

from collections.abc import Mapping

from xplm.config import DecoderConfig
from xplm.emulation.namespace import ACCUMULATE_BLOCK
from xplm.formats import find_format
from xplm.models.decoder import param_specs
from xplm.params import count_params
from xplm.precision import Policy
from xplm.specs import ExpertsSpec, MLPSpec

PARTS = ("param", "cache", "compute", "rope", "norm", "softmax", "loss", "accumulate")
"""The parts of a policy that cost."""


def count_numbers(config: DecoderConfig, window: int) -> dict[str, int]:
    """Numbers that decoding one token handles, by part.

    Args:
        config: the model's.
        window: positions in the cache.
    """
    L, C, V, S = config.num_hidden_layers, config.hidden_size, config.vocab_size, window
    mixers = [block.mixer for block in config.blocks]
    q = sum(mixer.num_heads * mixer.head_dim for mixer in mixers)
    kv = sum(heads * width for mixer in mixers for heads, width in mixer.cached)
    heads = sum(mixer.num_heads for mixer in mixers)
    mlps = [block.mlp for block in config.blocks]
    F = sum(_active_width(mlp) for mlp in mlps)
    scores = sum(mlp.num_experts for mlp in mlps if isinstance(mlp, ExpertsSpec))
    rotated = sum((m.num_heads + m.cached[0][0]) * m.rope.dim for m in mixers if m.rope is not None)
    specs = param_specs(config)
    matrices = {
        name: spec
        for name, spec in specs.items()
        if spec.decays and len(spec.shape) == 2 and "embed" not in name
    }
    stacked = sum(_stacked_numbers(mlp, C) for mlp in mlps)
    chosen = sum(_stacked_numbers(mlp, C, is_active=True) for mlp in mlps)
    products = count_params(matrices) + V * C * config.tie_word_embeddings + chosen
    return {
        "param": count_params(specs) - stacked + chosen,
        "cache": kv * S,
        "compute": 2 * q + kv + 6 * L * C + 4 * F + 2 * C,
        "rope": 2 * rotated + sum(rope.dim for rope in config.ropes),
        "norm": 2 * C * (2 * L + 1),
        "softmax": 2 * heads * S + 2 * scores,
        "loss": V,
        "accumulate": products // ACCUMULATE_BLOCK,
    }


def _active_width(mlp: MLPSpec | ExpertsSpec) -> int:
    """F, or that of the experts that a token takes together."""
    if isinstance(mlp, MLPSpec):
        return mlp.intermediate_size
    shared = 0 if mlp.shared is None else mlp.shared.intermediate_size
    return mlp.num_experts_per_tok * mlp.intermediate_size + shared


def _stacked_numbers(mlp: MLPSpec | ExpertsSpec, C: int, *, is_active: bool = False) -> int:
    """Numbers in the matrices of all experts, or of those that a token takes."""
    if isinstance(mlp, MLPSpec):
        return 0
    return (
        (mlp.num_experts_per_tok if is_active else mlp.num_experts) * 3 * C * mlp.intermediate_size
    )


def bits(name: str) -> int:
    """Of a number in a format, by its name."""
    format = find_format(name)
    return 1 + format.exponent_bits + format.mantissa_bits


def part_bytes(policy: Policy, numbers: Mapping[str, int]) -> dict[str, float]:
    """The cost of each part, in bytes a token; `numbers` is `count_numbers`'."""
    return {part: numbers[part] * bits(getattr(policy, part)) / 8 for part in PARTS}


def total_bytes(policy: Policy, numbers: Mapping[str, int]) -> float:
    """The cost of a policy, in bytes a token."""
    return sum(part_bytes(policy, numbers).values())

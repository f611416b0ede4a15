"""Layers as values: what decides a layer's parameters and its arithmetic.

A decoder is a tuple of blocks (`xplm.config.DecoderConfig.blocks`). `xplm.models.families` makes them of a config.json,
`xplm.layers` has one module for each kind of spec, and `xplm.layers.table` says which. A fact in which families differ
is a field here. Letters as in `xplm.typing`.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True)
class RMSNormSpec:
    """x / rms(x) * (offset + weight)."""

    eps: float  # added to the mean square
    offset: float = 0.0


@dataclass(frozen=True)
class LayerNormSpec:
    """(x - mean(x)) / std(x) * (offset + weight) + bias; without a weight, x / std(x) is not scaled."""

    eps: float  # added to the variance
    offset: float = 0.0
    has_weight: bool = True
    has_bias: bool = True

    def __post_init__(self) -> None:
        """Refuse an offset of nothing."""
        assert self.has_weight or not self.offset, "an offset is added to a weight"


NormSpec: TypeAlias = RMSNormSpec | LayerNormSpec


@dataclass(frozen=True)
class RopeSpec:
    """Rotary positions: Hugging Face's `rope_parameters`. Fields that a type does not use keep their defaults."""

    rope_type: str = "default"
    rope_theta: float = 10000.0
    factor: float = 1.0  # stretched length / trained length
    original_max_position_embeddings: int | None = (
        None  # trained length, positions; yarn, llama3, longrope
    )
    low_freq_factor: float = 1.0  # llama3: wavelengths above trained length / this are interpolated
    high_freq_factor: float = 4.0  # llama3: wavelengths below trained length / this are kept
    attention_factor: float | None = None  # yarn, longrope: scale of cos and sin; None: the paper's
    beta_fast: float = 32.0  # yarn: pairs with more turns over the trained length are kept
    beta_slow: float = 1.0  # yarn: pairs with fewer are interpolated
    mscale: float | None = None  # yarn, DeepSeek's variant of attention_factor
    mscale_all_dim: float | None = None
    truncate: bool = True  # yarn: round the ramp's ends to whole pairs
    short_factor: tuple[float, ...] = ()  # longrope: divisors of the frequencies, within
    long_factor: tuple[float, ...] = ()  # and beyond the trained length
    _: KW_ONLY
    dim: int  # leading features of a head that are rotated, an even number
    pairs: str = "halves"  # features rotated together: i and i + dim/2; "neighbours": 2i and 2i + 1
    max_position_embeddings: int  # the configured context, positions; "dynamic" alone reads it


QK_NORMS = ("head", "each head", "all heads")
"""What a norm of q or k goes over: a head, with one weight (D,) for all or a row of (H, D) for each; or all heads
together, before they are split, with a weight (H D,).
"""


@dataclass(frozen=True)
class AttentionSpec:
    """Causal grouped-query attention."""

    num_heads: int  # H
    num_key_value_heads: int  # K
    head_dim: int  # D, of q and k
    value_dim: int  # Dv, of v
    scale: float  # factor of the scores, q k^T
    rope: RopeSpec | None  # None: q and k are not rotated
    qkv_bias: bool
    output_bias: bool
    window: int | None = None  # keys that a query sees, its own included; None: all before it
    qk_norm: NormSpec | None = None  # of q and k, before they are rotated
    qk_norm_over: str = "head"  # of QK_NORMS
    clip: float | None = None  # bound of the entries of q, k and v, after the norm
    cap: float | None = None  # c: scaled scores become c tanh(score / c)
    has_sinks: bool = False  # whether each head has a logit that joins the softmax's denominator

    def __post_init__(self) -> None:
        """Refuse what no layer computes."""
        assert self.qk_norm_over in QK_NORMS, f"{self} has a norm of no kind that there is"

    @property
    def cached(self) -> tuple[tuple[int, int], ...]:
        """Heads and width of each array that a cache holds of a position: keys and values."""
        K = self.num_key_value_heads
        return (K, self.head_dim), (K, self.value_dim)


@dataclass(frozen=True)
class LatentAttentionSpec:
    """Causal attention whose keys and values are made of one latent vector a position, shared by all heads."""

    num_heads: int  # H
    q_rank: int | None  # Q, width of the latent of q; None: q is one projection
    kv_rank: int  # R, width of the latent of k and v
    nope_dim: int  # N, leading features of a head of q and k, not rotated
    value_dim: int  # Dv, of v
    scale: float  # factor of the scores, q k^T
    rope: RopeSpec  # of the other P features: P is its dim
    norm: NormSpec  # of both latents
    bias: bool  # of the projections to the latents, and of the output

    @property
    def head_dim(self) -> int:
        """D = N + P, of q and k."""
        return self.nope_dim + self.rope.dim

    @property
    def num_key_value_heads(self) -> int:
        """K = H, once keys and values are made."""
        return self.num_heads

    @property
    def cached(self) -> tuple[tuple[int, int], ...]:
        """Heads and width of each array that a cache holds of a position: the latent and the rotated part of k."""
        return ((1, self.kv_rank + self.rope.dim),)


MixerSpec: TypeAlias = AttentionSpec | LatentAttentionSpec


ACTIVATIONS = ("silu", "gelu", "gelu_erf", "relu", "relu2")
"""Of an MLP: silu, with a gate only; gelu in the tanh approximation and exact; relu and its square."""


@dataclass(frozen=True)
class MLPSpec:
    """down(activation(up(x))), or gated: down(activation(gate(x)) * up(x))."""

    intermediate_size: int  # F
    activation: str  # of ACTIVATIONS
    is_gated: bool
    bias: bool  # of all matrices

    def __post_init__(self) -> None:
        """Refuse what no op computes."""
        is_known = self.activation in ACTIVATIONS and (self.is_gated or self.activation != "silu")
        assert is_known, f"{self} is of no kind that there is"


SCORES = ("softmax", "sigmoid")
GROUP_SCORES = ("best", "best two")


@dataclass(frozen=True)
class RouterSpec:
    """Scores of all experts, of which the best are chosen; the scores of the chosen are their weights."""

    scores: str  # of SCORES: of all logits together, or of each
    is_normalised: bool  # weights are divided by their sum over the chosen
    factor: float = 1.0  # of the weights
    bias: bool = False  # of the logits
    has_correction: bool = False  # a bias on the scores that choose, not on the weights
    num_groups: int = 1  # equal groups of neighbouring experts
    kept_groups: int = 1  # groups whose experts can be chosen, the best
    group_score: str = "best"  # of GROUP_SCORES: a group's best score, or the sum of its best two
    balance: float = 0.0  # coefficient of the load-balancing loss

    def __post_init__(self) -> None:
        """Refuse a choice that no kernel makes."""
        assert self.scores in SCORES, f"{self} is of no kind that there is"
        assert self.group_score in GROUP_SCORES, f"{self} is of no kind that there is"
        is_by_logits = not self.has_correction and self.group_score == "best"
        assert self.scores == "sigmoid" or is_by_logits, f"{self} is of no kind that there is"


@dataclass(frozen=True)
class ClampSpec:
    """(u + 1) g sigmoid(alpha g), with g = min(gate, limit) and u = up within +-limit."""

    alpha: float
    limit: float


@dataclass(frozen=True)
class ExpertsSpec:
    """Gated MLPs, of which a router chooses some for each token; the output is their weighted sum."""

    num_experts: int  # E
    num_experts_per_tok: int  # chosen for each token
    intermediate_size: int  # F, of one expert
    router: RouterSpec
    activation: str = "silu"  # of ACTIVATIONS, of the gate
    bias: bool = False  # of all matrices of experts
    clamp: ClampSpec | None = None  # None: activation(gate) * up
    shared: MLPSpec | None = None  # an MLP that every token takes, added to the sum
    is_shared_gated: bool = False  # multiplied by the sigmoid of a projection of the token

    def __post_init__(self) -> None:
        """Refuse what no op computes."""
        assert self.activation in ACTIVATIONS, f"{self} is of no kind that there is"


@dataclass(frozen=True)
class BlockSpec:
    """A mixer of positions and an MLP, each added to the residual stream.

    sequential    x = x + c m(mixer(norm(x)));  x = x + c f(mlp(mlp_norm(x)))
    parallel      x = x + c m(mixer(norm(x))) + c f(mlp(mlp_norm(x)))

    c is `branch_scale`; m and f are `mixer_output_norm` and `mlp_output_norm`. A norm that is None is left out.
    """

    mixer: Any  # a spec of a layer that mixes positions: AttentionSpec or LatentAttentionSpec
    mlp: MLPSpec | ExpertsSpec
    norm: NormSpec | None
    mlp_norm: NormSpec | None  # in a parallel block None: the MLP reads norm(x) too
    mixer_output_norm: NormSpec | None = None
    mlp_output_norm: NormSpec | None = None
    is_parallel: bool = False
    branch_scale: float = 1.0  # of both branches' outputs

    def __post_init__(self) -> None:
        """Refuse a block without a norm."""
        assert self.norm or self.mixer_output_norm, (
            "a block has a norm before its mixer or after it"
        )

    @property
    def first_norm(self) -> NormSpec:
        """The norm before the mixer, or else the one of its output."""
        norm = self.norm or self.mixer_output_norm
        assert norm is not None
        return norm

"""Which tokens of a greedy reply hang on rounding: margin / bound, token by token.

    margin   m   = z_chosen - max of the other z      z the model's logits, given the tokens before
             m_i   the same in draw i of n: the pass again, in the policy that is guarded against, where each rounding
                   error e = fl(x) - x, of a weight or of a result, enters with a random sign: x + s e
    noise    d   = sqrt(mean of (m_i - m)^2)
    bound    b   = t d                                t the 99 % quantile of Student's t with n degrees of freedom

A token is fragile if m <= b. So is every tie. One that is not would be another on at most 1 in 100 libraries that
compute in that policy, whatever their order of summation, their batch size and their kernels: to first order, a margin
moves by the sum of a_j e_j over all roundings j. The format and the numbers say how large each e_j is; which way it
goes differs from library to library. Signs at random keep the variance, the sum of (a_j e_j)^2, and cost nothing where
there is nothing to round: the weights of a checkpoint in bfloat16 stay as they are.

Signs are products of one for each row and one for each column. Those are uncorrelated in pairs, which is all that the
variance asks for, and a weight of a million numbers takes two thousand random bits.

Formats of more than 17 bits of significand leave float32 arithmetic no room to be perturbed in. Noise of bfloat16
stands for theirs, in proportion to the unit roundoff: to first order it is linear in that.

Sources: signs at random on residuals, Liu, "Bootstrap procedures under some non-i.i.d. models", Annals of Statistics 16
(1988); a few runs with perturbed roundings and Student's t, in place of an a-priori bound, Vignes, "A stochastic
arithmetic for reliable scientific computation", Mathematics and Computers in Simulation 35 (1993).
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from xplm.cache import ADVICE
from xplm.errors import RequestError
from xplm.formats import Format, find_format, round_to
from xplm.generate.engine import Engine
from xplm.models.decoder import forward
from xplm.namespace import array_namespace
from xplm.out_of_memory import memory_faults, require_memory
from xplm.precision import Policy, cast
from xplm.runtime import make_runtime
from xplm.typing import Array
from xplm.weights import weight_bytes

DRAWS = 6
QUANTILE = 3.143
"""The 99 % quantile of Student's t with DRAWS degrees of freedom."""

AGAINST = "bf16"
"""The policy that is guarded against unless another is named: its noise is larger than that of fp16 and of fp32."""

WHAT = "a pass whose roundings are perturbed"

WIDEST = 16
"""Mantissa bits up to which errors are large beside those of the float32 that they are added in."""


class TokenFragility(NamedTuple):
    """How firmly one token was chosen."""

    margin: float  # logits between it and the runner-up; below 0 if the pass prefers that
    bound: float  # logits by which rounding can move that
    rival: int  # token id of the runner-up

    @property
    def ratio(self) -> float:
        """margin / bound; infinite where nothing is rounded and there is a margin."""
        if self.bound > 0.0:
            return self.margin / self.bound
        return float("inf") if self.margin > 0.0 else 0.0

    @property
    def is_fragile(self) -> bool:
        """Whether rounding could have made it another token."""
        return not self.margin > self.bound  # a bound that is NaN has overflowed, and holds nothing


class Margins(NamedTuple):
    """Of the tokens of one reply."""

    margin: np.ndarray  # (n,) float64
    rival: np.ndarray  # (n,) int64, the largest of the other logits


def measure_fragility(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    against: Policy | str = AGAINST,
    *,
    seed: int = 0,
    on_draw: Callable[[int], None] = lambda draw: None,
) -> list[list[TokenFragility]]:
    """Judge every token of greedy replies.

    Args:
        engine: the decoder that made them, greedily.
        prompts: B sequences of token ids.
        replies: the token ids that followed each.
        against: the policy that another library, batch size or dtype may compute in.
        seed: of the signs.
        on_draw: told the number of each draw before it begins.

    Returns:
        For each reply, one judgement a token.

    Raises:
        RequestError: a prompt is empty, a reply does not fit the context behind it, an id is unknown, or `against` is
            not a policy.
        OutOfMemoryError: a copy of the weights does not fit the device's free memory.
    """
    steps, draw = fragility_steps(engine, prompts, replies, against, seed=seed), 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: list[list[TokenFragility]] = end.value
            return found
        on_draw(draw)
        draw += 1


def fragility_steps(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    against: Policy | str = AGAINST,
    *,
    seed: int = 0,
) -> Generator[None, None, list[list[TokenFragility]]]:
    """Judge every token of greedy replies, pass by pass.

    Args:
        engine: the decoder that made them, greedily.
        prompts: B sequences of token ids.
        replies: the token ids that followed each.
        against: as for `measure_fragility`.
        seed: of the signs.

    Yields:
        Before each draw.

    Returns:
        What `measure_fragility` returns.

    Raises:
        RequestError: as from `measure_fragility`.
        OutOfMemoryError: a copy of the weights does not fit the device's free memory.
    """
    policy = Policy(against)
    measured, scale = _measurable(policy)
    for prompt, reply in zip(prompts, replies, strict=True):
        engine.check_ids(prompt)
        engine.check_ids([*prompt, *reply])
        if len(reply) == 0:
            raise RequestError("a reply must hold at least one token to judge; got none")
    backend = engine.rt.backend
    with memory_faults(backend, WHAT, ADVICE):
        plain = compute_margins(engine, prompts, replies)

    squares = [np.zeros(len(reply)) for reply in replies]
    for draw in range(DRAWS):
        yield
        with memory_faults(backend, WHAT, ADVICE):
            noisy = noisy_engine(engine, measured, np.random.default_rng([seed, draw]))
            moved = compute_margins(noisy, prompts, replies)
        del noisy  # before the next copy of the weights is made
        for square, there, here in zip(squares, moved, plain, strict=True):
            square += (there.margin - here.margin) ** 2 / DRAWS
    return [
        [
            TokenFragility(float(m), float(QUANTILE * scale * d), int(rival))
            for m, d, rival in zip(margins.margin, np.sqrt(square), margins.rival, strict=True)
        ]
        for margins, square in zip(plain, squares, strict=True)
    ]


def compute_margins(
    engine: Engine, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]
) -> list[Margins]:
    """The margin of every token of some replies, each given its prompt and the reply's tokens before it."""
    longest = max(len(reply) for reply in replies)
    new = np.zeros((len(replies), longest), np.int64)  # zeros after a reply change nothing in it
    for row, reply in zip(new, replies, strict=True):
        row[: len(reply)] = reply

    cache = engine.allocate(len(prompts), max(map(len, prompts)) + longest)
    parts = [_gaps(engine.feed(cache, prompts)[:, None, :], new[:, :1])]
    backend = engine.rt.backend
    step = max(1, engine.chunk_tokens // len(prompts))
    for begin in range(0, longest - 1, step):
        end = min(begin + step, longest - 1)
        with backend.computing():
            chunk = backend.from_host(np.ascontiguousarray(new[:, begin:end]))
            logits = forward(engine.rt, engine.config, engine.params, chunk, cache)
            scores = backend.to_host(logits)
        parts.append(_gaps(scores, new[:, begin + 1 : end + 1]))

    margin, rival = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    lengths = [len(reply) for reply in replies]
    return [Margins(m[:n], r[:n]) for m, r, n in zip(margin, rival, lengths, strict=True)]


def noisy_engine(engine: Engine, policy: Policy, rng: np.random.Generator) -> Engine:
    """The same decoder in a policy all of whose roundings have random signs, those of its weights too.

    Args:
        engine: the decoder as it is.
        policy: formats of at most WIDEST mantissa bits, or islands of more, which are computed without noise.
        rng: of the signs.

    Raises:
        OutOfMemoryError: the copy of the weights does not fit the device's free memory.
    """
    own = engine.rt.backend

    def signs(*shape: int) -> Array:
        return own.from_host(rng.choice(np.asarray([-1.0, 1.0], np.float32), shape))

    def nearest(x: Array, format: Format) -> Array:
        if format.name not in own.dtypes:
            return round_to(x, format)
        return cast(cast(x, own.dtypes[format.name]), x.dtype)  # the same, many times faster

    def rounding(x: Array, format: Format) -> Array:
        sign = signs(*x.shape[-1:])
        if x.ndim > 1:
            sign = sign * signs(*x.shape[:-1], 1)
        y = nearest(x, format)
        xp = array_namespace(x)
        is_finite = xp.isfinite(y)
        if xp.all(is_finite):
            return x + (y - x) * sign
        zeros = xp.zeros_like(x)
        error = xp.where(is_finite, y, zeros) - xp.where(is_finite, x, zeros)
        return xp.where(is_finite, x, y) + error * sign  # masked scores stay infinite

    rt = make_runtime(own, policy, "portable", rounding)
    n_bytes = sum(weight_bytes(weight, rt.host_dtype.param) for weight in engine.params.values())
    require_memory(own, n_bytes, "the weights with the errors of a draw", "free memory")
    xp = rt.backend.xp
    params = {
        name: xp.astype(xp.wrap(array), rt.dtype.param) for name, array in engine.params.items()
    }
    return replace(engine, rt=rt, params=params)


def _measurable(policy: Policy) -> tuple[Policy, float]:
    """The policy to perturb the pass in, and what its noise is multiplied by."""
    formats = [find_format(name) for name in (*policy.dtypes, policy.matmul, policy.accumulate)]
    if min(format.mantissa_bits for format in formats) <= WIDEST:
        return policy, 1.0
    coarse = max(format.eps for format in formats)
    return Policy.parse("bf16"), coarse / find_format("bfloat16").eps


def _gaps(logits: np.ndarray, chosen: np.ndarray) -> Margins:
    """Margins and rivals (B, T) of chosen (B, T) in logits (B, T, V)."""
    own = np.take_along_axis(logits, chosen[..., None], axis=-1)[..., 0].astype(np.float64)
    others = np.array(logits, np.float32)
    np.put_along_axis(others, chosen[..., None], -np.inf, axis=-1)
    rival = np.argmax(others, axis=-1)
    top = np.take_along_axis(others, rival[..., None], axis=-1)[..., 0]
    return Margins(own - top, rival)

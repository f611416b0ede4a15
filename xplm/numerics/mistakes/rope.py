"""rope: a rotation goes back by its transpose, and there are many ways not to."""

from typing import TypeAlias

import numpy as np

from xplm.numerics.mistakes.chain import Chain, Form, Values, mistake

Halves: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]
"""The two members of every pair, and the features that are not rotated."""


def _halves(x: np.ndarray, cos: np.ndarray, pairs: str) -> Halves:
    half = cos.shape[-1]
    rotated, rest = x[..., : 2 * half], x[..., 2 * half :]
    if pairs == "neighbours":
        return rotated[..., 0::2], rotated[..., 1::2], rest
    return rotated[..., :half], rotated[..., half:], rest


def _join(first: np.ndarray, second: np.ndarray, rest: np.ndarray, pairs: str) -> np.ndarray:
    if pairs == "neighbours":
        rotated = np.stack([first, second], axis=-1).reshape(*first.shape[:-1], -1)
        return np.concatenate([rotated, rest], axis=-1)
    return np.concatenate([first, second, rest], axis=-1)


def _turn(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, pairs: str = "halves") -> np.ndarray:
    """Every pair by its angle."""
    x1, x2, x3 = _halves(x, cos, pairs)
    return _join(x1 * cos - x2 * sin, x2 * cos + x1 * sin, x3, pairs)


def _turn_back(e: Values, *, signs: tuple[int, int] = (1, -1)) -> np.ndarray:
    """dy turned by minus its angle; `signs` are those of the sines in both lines."""
    dy1, dy2, dy3 = _halves(e.dy, e.cos, e.pairs)
    dx1 = dy1 * e.cos + signs[0] * dy2 * e.sin
    dx2 = dy2 * e.cos + signs[1] * dy1 * e.sin
    return _join(dx1, dx2, dy3, e.pairs)


def _other(pairs: str) -> str:
    return "halves" if pairs == "neighbours" else "neighbours"


def _turn_with_one_sign(e: Values) -> np.ndarray:
    x1, x2, x3 = _halves(e.x, e.cos, "halves")
    return _join(x1 * e.cos + x2 * e.sin, x2 * e.cos + x1 * e.sin, x3, "halves")


def _shifted(table: np.ndarray) -> np.ndarray:
    return np.roll(table, -1, axis=2)


ROPE = Chain(
    arguments=("x", "cos", "sin"),
    gradients=("x",),
    forward={
        "pairs": lambda e: getattr(e, "pairs", "halves"),
        "y": lambda e: _turn(e.x, e.cos, e.sin, e.pairs),
    },
    backward={"dx": _turn_back},
    mistakes=(
        mistake(
            "dy is rotated the wrong way, forwards again: dx is dy turned by minus the angle, "
            "with -sin for sin",
            dx=lambda e: _turn(e.dy, e.cos, e.sin, e.pairs),
        ),
        mistake(
            "one half has the wrong sign: dx1 = dy1 cos + dy2 sin, and dx2 = dy2 cos - dy1 sin",
            dx=lambda e: _turn_back(e, signs=(1, 1)),
        ),
        mistake(
            "one half has the wrong sign: dx1 = dy1 cos + dy2 sin, and dx2 = dy2 cos - dy1 sin",
            dx=lambda e: _turn_back(e, signs=(-1, -1)),
        ),
        mistake("dy is not rotated at all", dx=lambda e: e.dy),
        mistake(
            "dx lacks the sine terms: each number of a pair gets gradient from both",
            dx=lambda e: _turn_back(e, signs=(0, 0)),
        ),
        mistake(
            "sine and cosine are swapped in dx",
            dx=lambda e: _turn(e.dy, e.sin, -e.cos, e.pairs),
        ),
        mistake(
            "dx pairs neighbours (2i, 2i + 1), and the forward pairs halves (i, i + D/2)",
            dx=lambda e: _turn(e.dy, e.cos, -e.sin, _other(e.pairs)),
        ),
        mistake(
            "dx is turned by the angles of the next position: the tables are off by one",
            dx=lambda e: _turn(e.dy, _shifted(e.cos), -_shifted(e.sin), e.pairs),
        ),
        mistake(
            "dx is turned twice as far as y was",
            dx=lambda e: _turn(_turn_back(e), e.cos, -e.sin, e.pairs),
        ),
        mistake(
            "dx is the inverse of the map where its transpose belongs: they differ where the "
            "tables carry a scale, as YaRN's do",
            dx=lambda e: _turn(e.dy, e.cos, -e.sin, e.pairs) / (e.cos**2 + e.sin**2).max(),
        ),
    ),
    forward_mistakes=(
        mistake("it turns by minus the angle", y=lambda e: _turn(e.x, e.cos, -e.sin)),
        mistake("sine and cosine are swapped", y=lambda e: _turn(e.x, e.sin, e.cos)),
        mistake("it does not turn at all", y=lambda e: e.x),
        mistake(
            "one half has the wrong sign: y1 = x1 cos - x2 sin, and y2 = x2 cos + x1 sin",
            y=_turn_with_one_sign,
        ),
    ),
    forms=(Form("with neighbours as pairs, (2i, 2i + 1)", {"pairs": "neighbours"}),),
)

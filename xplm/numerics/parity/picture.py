"""Error through a model, layer by layer, as an SVG drawing.

Each kernel call of a pass is a dot at the relative error of its output in the whole run, test against reference; the
band below the line is where rounding alone would put it, twice the root mean square of the perturbed runs. The scale is
logarithmic in powers of two, since a format's unit roundoff is one.
"""

import math
from collections.abc import Callable, Sequence
from html import escape

from xplm.numerics.parity.compare import Drift
from xplm.numerics.parity.report import Drifts

WIDTH, HEIGHT = 1040, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 34, 40
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
BAND = 2.0
"""The band's edge over the root mean square."""


def draw(drifts: Drifts, unit: float, unit_name: str) -> str:
    """One pass as an <svg> element.

    Args:
        drifts: the pass.
        unit: unit roundoff of the format that activations are stored in, drawn as a line.
        unit_name: that format's name.
    """
    points = drifts.points
    values = [value for p in points for value in (p.error, BAND * p.expected) if value > 0.0]
    finite = [math.log2(v) for v in [*values, unit] if math.isfinite(v)]
    low, high = math.floor(min(finite)) - 1, min(math.ceil(max(finite)) + 1, 8)

    def x_of(index: float) -> float:
        return LEFT + (index + 0.5) / len(points) * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        level = math.log2(value) if 0.0 < value < math.inf else (low if value <= 0.0 else high)
        share = (min(max(level, low), high) - low) / (high - low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="relative error of each op of the {escape(drifts.name)} pass">'
    ]
    parts += _groups(points, x_of)
    parts += _grid(low, high, y_of)
    floor = HEIGHT - BOTTOM
    edge = " ".join(f"{x_of(i):.1f},{y_of(BAND * p.expected):.1f}" for i, p in enumerate(points))
    ends = f"{x_of(len(points) - 1):.1f},{floor} {x_of(0):.1f},{floor}"
    parts.append(f'<polygon class="band" points="{edge} {ends}"/>')
    parts.append(f'<polyline class="edge" points="{edge}"/>')
    y = y_of(unit)
    parts.append(f'<line class="unit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    for i, p in enumerate(points):
        name = "bug" if p.is_wrong else "backward" if p.is_backward else "forward"
        title = f"{p.label}: {p.error:.2e}; rounding {p.expected:.2e}"
        parts.append(
            f'<circle class="{name}" cx="{x_of(i):.1f}" cy="{y_of(p.error):.1f}" '
            f'r="{5 if p.is_wrong else 3}"><title>{escape(title)}</title></circle>'
        )
    parts.append(
        f'<text class="unit" x="{WIDTH - RIGHT - 4}" y="{y - 4:.1f}" text-anchor="end">'
        f"unit roundoff of {escape(unit_name)}</text>"
    )
    return "\n".join([*parts, "</svg>"])


def layer_of(label: str) -> str:
    """What part of the model a call belongs to, from its label: "embed", "layer 3", "head"."""
    _, _, place = label.partition(" at ")
    words = place.split(".")
    if "layers" in words:
        return f"layer {words[words.index('layers') + 1]}"
    return "embed" if "embed" in place and not label.startswith("linear") else "head"


def _groups(points: Sequence[Drift], x_of: Callable[[float], float]) -> list[str]:
    """Stripes behind the calls of one layer, with its name below."""
    parts = []
    begin, shade = 0, False
    while begin < len(points):
        key = layer_of(points[begin].label), points[begin].is_backward
        end = begin
        while end < len(points) and (layer_of(points[end].label), points[end].is_backward) == key:
            end += 1
        x1, x2 = x_of(begin - 0.5), x_of(end - 0.5)
        if shade:
            parts.append(
                f'<rect class="stripe" x="{x1:.1f}" y="{TOP}" width="{x2 - x1:.1f}" '
                f'height="{HEIGHT - TOP - BOTTOM}"/>'
            )
        if x2 - x1 > 7.0 * len(key[0]):
            parts.append(
                f'<text x="{(x1 + x2) / 2:.1f}" y="{HEIGHT - BOTTOM + 16}" '
                f'text-anchor="middle">{key[0]}</text>'
            )
        begin, shade = end, not shade
    turn = next((i for i, p in enumerate(points) if p.is_backward), None)
    if turn:
        x = x_of(turn - 0.5)
        parts.append(
            f'<line class="turn" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 14}" y2="{HEIGHT - BOTTOM}"/>'
        )
        parts.append(f'<text x="{x - 6:.1f}" y="{TOP - 6}" text-anchor="end">forward</text>')
        parts.append(f'<text x="{x + 6:.1f}" y="{TOP - 6}">backward</text>')
    return parts


def _grid(low: int, high: int, y_of: Callable[[float], float]) -> list[str]:
    """Lines and labels at powers of two, at most nine of them."""
    parts = []
    for power in range(low, high + 1, max(1, -(-(high - low) // 8))):
        y = y_of(2.0**power)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        exponent = str(power).translate(SUPERSCRIPT)
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">2{exponent}</text>')
    return parts

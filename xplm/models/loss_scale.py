"""Loss scaling: gradients of float16, or of a narrower format, kept out of the range in which it has no numbers.

float16 ends at 65504 above and at 6e-8 below, and many gradients of a mean loss lie under that. The loss is multiplied
by a scale, hence every gradient is, and is divided out again in float32. The largest scale that does not overflow is
found by trying:

    a gradient is inf or NaN      skip the step, halve the scale
    2000 good steps in a row      double it

Scales are powers of two, so that neither multiplication rounds.

Source: Micikevicius et al., "Mixed Precision Training", arXiv:1710.03740, section 3.2; the numbers are those of
torch.amp.GradScaler.
"""

from dataclasses import dataclass, replace

from xplm.formats import FORMATS, find_format
from xplm.typing import Params

INITIAL_SCALE = 2.0**16
MIN_SCALE = 1.0
"""A gradient that overflows unscaled is not cured by scaling: the loss has diverged."""

GROWTH_INTERVAL = 2000
"""Good steps before the scale is tried at twice its size."""


@dataclass(frozen=True)
class LossScale:
    """A scale, and what is known of it.."""

    scale: float = 1.0  # multiplies the loss; a power of two
    good_steps: int = 0  # in a row, at this scale
    skipped: int = 0  # steps, in the whole run
    is_dynamic: bool = (
        False  # False: the scale stays as it is, and bad steps are skipped all the same
    )

    def update(self, overflow: bool) -> "LossScale":
        """The scale of the next step.

        Args:
            overflow: whether a gradient of this step was inf or NaN, which the global norm then is too.
        """
        if overflow:
            scale = max(MIN_SCALE, self.scale / 2.0) if self.is_dynamic else self.scale
            return replace(self, scale=scale, good_steps=0, skipped=self.skipped + 1)
        if self.is_dynamic and self.good_steps + 1 >= GROWTH_INTERVAL:
            return replace(self, scale=2.0 * self.scale, good_steps=0)
        return replace(self, good_steps=self.good_steps + 1)


def make_loss_scale(*names: str) -> LossScale:
    """The scale to begin with, for gradients that pass through formats.

    Args:
        names: theirs, in `xplm.formats`. One that does not reach as far as float32 asks for a scale, unless it has
            neither infinity nor NaN to tell of an overflow.
    """
    formats = [find_format(name) for name in names]
    if any(
        f.exponent_bits < FORMATS["float32"].exponent_bits and f.kind != "finite" for f in formats
    ):
        return LossScale(INITIAL_SCALE, is_dynamic=True)
    return LossScale()


def unscale(grads: Params, scale: float) -> Params:
    """Gradients of the loss itself, from gradients of the loss times `scale`, wide."""
    if scale == 1.0:
        return grads
    return {name: grad * (1.0 / scale) for name, grad in grads.items()}

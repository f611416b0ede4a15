"""Where a backward pass puts the gradients of parameters.

A layer asks whether a gradient is wanted, computes it, and adds it. A parameter that several layers read, such as a
table that is embedding and head, gets one part of its gradient from each; they add up, and the sum is ready after the
last.
"""

from collections.abc import Callable, Container, Mapping
from typing import TypeAlias

from xplm.typing import Array, Params

OnGrad: TypeAlias = Callable[[str, Array], None]
"""Called with a parameter's name and its gradient."""


class Gradients:
    """The gradients of one backward pass."""

    def __init__(
        self,
        trainable: Container[str] | None = None,
        *,
        uses: Mapping[str, int] | None = None,
        on_grad: OnGrad | None = None,
    ) -> None:
        """None found yet.

        Args:
            trainable: names whose gradients are wanted; None: all.
            uses: layers that read a parameter, where there are several.
            on_grad: takes each gradient as soon as it is ready, once; None: they are kept in `found`.
        """
        self._trainable = trainable
        self._uses = dict(uses or {})
        self.found: Params = {}
        self._on_grad = on_grad or self.found.__setitem__
        self._parts: Params = {}  # of gradients that are not ready

    def wants(self, name: str) -> bool:
        """Whether a parameter's gradient is wanted."""
        return self._trainable is None or name in self._trainable

    def add(self, name: str, gradient: Array | None) -> None:
        """Take a layer's part of a parameter's gradient; one that is None or not wanted is dropped."""
        if gradient is None or not self.wants(name):
            return
        if name in self._parts:
            gradient = self._parts.pop(name) + gradient
        left = self._uses.get(name, 1) - 1
        if left:
            self._uses[name], self._parts[name] = left, gradient
        else:
            self._on_grad(name, gradient)

"""Ways to store an op's arrays, all of them right: matrices transposed, wider tables, other leading axes."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from xplm.numerics.mistakes.chain import Chain, flip
from xplm.numerics.op_cases import OpCase

Given: TypeAlias = Mapping[str, np.ndarray]

ONE_HOT = "with one-hot targets"

AXES = {2: "two axes", 3: "three axes", 4: "four axes"}


@dataclass(frozen=True)
class Layout:
    """The way in which a file stores the op's arguments and results."""

    says: str = ""  # "with matrices stored (inputs, outputs)"
    transposed: bool = False  # matrices are (inputs, outputs)
    axes: int | None = None  # of the first array; None: as many as the case has
    others: Mapping[str, Callable[[np.ndarray, Given], np.ndarray]] = field(default_factory=dict)

    def theirs(
        self, chain: Chain, arg: str, array: np.ndarray, given: Given = MappingProxyType({})
    ) -> np.ndarray:
        """An argument or its gradient, as the file stores it; `given` are the arguments in the op's own layout."""
        if arg in self.others:
            return self.others[arg](array, given)
        if arg in chain.matrices:
            return flip(array) if self.transposed else array
        if self.axes is not None and arg in chain.positions:
            return _with_leading(array, self._leading(chain), chain.positions[arg])
        return array

    def their_y(self, chain: Chain, y: np.ndarray, case: OpCase) -> np.ndarray:
        """y or its gradient, as the file stores it; `case` is what the op was run on."""
        if self.axes is None:
            return y
        name, n_last = next(iter(chain.positions.items()))
        x = case.args[chain.arguments.index(name)]
        assert x is not None
        n_leading = x.ndim - n_last
        return (
            y if y.ndim < n_leading else _with_leading(y, self._leading(chain), y.ndim - n_leading)
        )

    def fits(self, chain: Chain, case: OpCase) -> bool:
        """True where a case can be stored so."""
        given = dict(zip(chain.arguments, case.args, strict=False))
        if any(arg in self.others and given.get(arg) is None for arg in self.others):
            return False
        if self.axes is None:
            return True
        wanted = self._leading(chain)
        shapes = {
            array.shape[: array.ndim - n_last]
            for arg, n_last in chain.positions.items()
            if (array := given.get(arg)) is not None
        }
        return len(shapes) == 1 and wanted >= 0 and (wanted > 0 or math.prod(shapes.pop()) == 1)

    def _leading(self, chain: Chain) -> int:
        assert self.axes is not None
        return self.axes - next(iter(chain.positions.values()))


OWN = Layout()


def layouts(op: str, chain: Chain) -> Iterator[Layout]:
    """The library's own, then others of an op, those with other leading axes last."""
    kinds = [OWN]
    if chain.matrices:
        kinds.append(Layout("with matrices stored (inputs, outputs)", transposed=True))
    if op == "rope":
        kinds += [
            Layout(f"with cos and sin of D columns, {words}", others={"cos": widen, "sin": widen})
            for words, widen in (
                ("both halves alike", lambda table, _: np.concatenate([table, table], -1)),
                ("neighbours alike", lambda table, _: np.repeat(table, 2, -1)),
            )
        ]
    if "targets" in chain.positions:
        kinds += [replace(k, says=_also(k, ONE_HOT), others={"targets": _one_hot}) for k in kinds]
    yield from kinds
    for axes, words in AXES.items() if chain.positions else ():
        name = next(iter(chain.positions))
        for kind in kinds:
            if ONE_HOT not in kind.says:
                yield replace(kind, says=_also(kind, f"for {name} of {words}"), axes=axes)


def _also(layout: Layout, words: str) -> str:
    return f"{layout.says}, {words}" if layout.says else words


def _one_hot(targets: np.ndarray, given: Given) -> np.ndarray:
    """Rows of zeros with a 1; of zeros alone for an ignored target."""
    n_classes = given["weight"].shape[0] if "weight" in given else given["x"].shape[-1]
    return (targets[:, None] == np.arange(n_classes)).astype(np.float64)


def _with_leading(array: np.ndarray, n: int, n_last: int) -> np.ndarray:
    """(..., last axes) with n axes in front: those that are missing have length 1, those too many are merged."""
    leading = array.shape[: array.ndim - n_last]
    last = array.shape[array.ndim - n_last :]
    if len(leading) <= n:
        return array.reshape((1,) * (n - len(leading)) + array.shape)
    if n == 0:
        return array.reshape(last)
    n_merged = len(leading) - n + 1
    return array.reshape((math.prod(leading[:n_merged]), *leading[n_merged:], *last))

"""How a family's file stores a module, where it is more than another name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True)
class StoredAs:
    """The module of a family's file that holds one of ours, or several that name it, joined in their order.

    Joined modules are in groups: some rows of the first, then of the second, and again. Of q (H D, C), k and v
    (K D, C),

        groups = 1    q, then k, then v
        groups = K    of each key/value head the D H/K rows of its queries, the D of its key, the D of its value
        groups = K D  one row of each in turn, where H = K
    """

    name: str
    """With "{}" it is a module for each entry of our parameters' first axis, by its number."""
    groups: int = 1
    """A divisor of the rows of each."""
    axis: int = 0
    """Of our parameters' shapes, the one that is joined; 1 where experts come first."""
    is_transposed: bool = False
    """Whether weights are stored as (inputs, outputs)."""
    suffixes: Mapping[str, str] = field(default_factory=dict)
    """Ends of the tensors' names that are not ".weight" and ".bias", such as {"bias": "_bias"}."""

    def tensor(self, kind: str) -> str:
        """The name of the tensor that holds the weight or the bias."""
        return self.name + self.suffixes.get(kind, f".{kind}")


Modules: TypeAlias = Mapping[str, str | StoredAs]
"""Our name of a module, in a block without the block's, -> the family's."""

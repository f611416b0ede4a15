"""Weights: the matrices of a model, as they are stored.

Three layers read a weight's numbers: linear (`xplm.layers.linear`), embedding and head (`xplm.models.decoder`). All
others ask a weight for its shape and its bytes.
"""

import math
from typing import Any, TypeAlias

import numpy as np

from xplm.typing import Array

Weight: TypeAlias = Array
"""A matrix (N, C), in the dtype that the policy gives parameters."""


def weight_bytes(weight: Weight, dtype: np.dtype[Any]) -> int:
    """Bytes of a weight as it is stored, whose dtype is NumPy's `dtype`."""
    return math.prod(weight.shape) * dtype.itemsize

"""Optimizers, one file each, and the table of them by name."""

from xplm.train.optimizers.optimizer import Optimizer, OptimizerState
from xplm.train.optimizers.table import OPTIMIZERS, find_optimizer

__all__ = ["OPTIMIZERS", "Optimizer", "OptimizerState", "find_optimizer"]

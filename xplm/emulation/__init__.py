"""Number formats that a backend lacks, emulated on it."""

from xplm.emulation.emulate import emulate
from xplm.emulation.namespace import Rounding
from xplm.emulation.stochastic import stochastic

__all__ = ["Rounding", "emulate", "stochastic"]

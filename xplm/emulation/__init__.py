"""Number formats that a backend lacks, emulated on it."""

from xplm.emulation.emulate import emulate

__all__ = ["emulate"]

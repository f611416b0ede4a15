"""Parity: the same numbers through two runtimes, each difference judged to be rounding or a bug."""

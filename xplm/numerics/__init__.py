"""Checks on arithmetic: gradients against differences, and what is likely wrong where they disagree."""

"""Policies measured: what each costs and what each spoils, on a text or over a training run."""

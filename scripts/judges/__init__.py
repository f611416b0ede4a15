"""Judges of the server that were written for others; scripts/judge_serve.py runs them."""

"""Compositions of ops that several fusions are made of."""

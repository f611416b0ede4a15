"""Tests of the fusions, which are compositions: fused or not, against one bound."""

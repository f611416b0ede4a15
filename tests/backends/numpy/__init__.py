"""What NumPy's backend has of its own: fused kernels, and how they are compiled."""

"""Layers: kernels put together, forward and backward, pure functions of a runtime, parameters and arrays."""

"""Layers: kernels put together, forward and (later) backward, pure functions of a runtime, parameters and arrays."""

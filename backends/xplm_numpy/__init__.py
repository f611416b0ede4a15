"""NumPy on the CPU: the backend that is always there."""

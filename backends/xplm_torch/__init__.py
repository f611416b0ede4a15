"""PyTorch on the CPU or an NVIDIA GPU."""

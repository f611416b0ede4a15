"""Models: the decoder, its parameters and its forward pass."""

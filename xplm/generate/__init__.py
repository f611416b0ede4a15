"""Generation: sampling, decoding over a cache, beam search, conversations, perplexity."""

"""array-api-strict: the standard and nothing else, with a second address space, for tests."""

"""The bits of every result, recorded in two checkouts and compared: the parts of compare_bits.py."""

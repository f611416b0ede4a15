"""The parts of `xplm.numerics.grade`: the file, the cases that fit it, and the diagnosis of wrong gradients."""

"""What `xplm.numerics.grade` is made of: somebody's file, cases that fit it, and what a wrong gradient looks like."""

"""The doctor: what an array library does of all that a transformer needs, and what xplm does where it does not."""

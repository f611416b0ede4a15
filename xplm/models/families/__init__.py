"""One file a family of decoders, and how a config.json is read and written."""

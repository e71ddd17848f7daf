"""Commands: they parse and call."""

"""The HTTP service: protocols, admission, batching and execution."""

"""Hostile requests against a running server; see `bench.hostile.__main__`."""

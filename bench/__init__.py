"""Benchmarks: each prints its table, and the machine it ran on, from a fresh run."""

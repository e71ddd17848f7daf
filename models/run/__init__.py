"""Runs batches of plans: the graph of distinct values, chains, jobs."""

"""The engine in a process of its own, and how HTTP processes reach it."""

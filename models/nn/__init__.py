"""Layers that can be narrowed, the transformer, and batches of packed rows."""

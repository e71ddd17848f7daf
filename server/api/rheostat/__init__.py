"""Rheostat's own protocol."""

"""Torch on CUDA with hot chains recorded."""

"""Inputs of requests, and the threads that read them."""

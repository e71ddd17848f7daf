"""The shipped models on a GPU, in several ways; run it with `python -m bench.gpu`."""

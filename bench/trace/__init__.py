"""How a server under changing load trades quality for promptness: `python -m bench.trace`."""

"""Rheostat's `/v1/embeddings` beside other servers; run it with `python -m bench.peers`."""

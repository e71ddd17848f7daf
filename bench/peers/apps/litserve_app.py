# mypy: ignore-errors
"""LitServe with its own OpenAI protocol and dynamic batching.

It waits 1 ms for more texts: with no wait at all its worker polls its queue without pause and takes
a core from itself. Its queue over ZeroMQ (`fast_queue`) brings a fifth more than the usual one.
"""

from __future__ import annotations

import os

import litserve
from engines import load
from litserve.specs import OpenAIEmbeddingSpec


class Embeddings(litserve.LitAPI):
    """One engine in one worker."""

    def setup(self, device):
        """Load the model, in the worker."""
        self.run = load()

    def predict(self, inputs):
        """Return one vector per text."""
        return self.run(inputs)


if __name__ == "__main__":
    api = Embeddings(max_batch_size=32, batch_timeout=0.001, spec=OpenAIEmbeddingSpec())
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=int(os.environ["PEER_WORKERS"]),
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PEER_PORT"]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
    )

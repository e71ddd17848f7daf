# mypy: ignore-errors
"""LitServe with its own OpenAI protocol and dynamic batching.

It waits 1 ms for more texts: with no wait at all its worker polls its queue without pause and takes
a core from itself.
"""

from __future__ import annotations

import os

import litserve
from litserve.specs import OpenAIEmbeddingSpec


class Embeddings(litserve.LitAPI):
    """One model in one worker."""

    def setup(self, device):
        """Load the model, in the worker."""
        # The server's own process does without it.
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(os.environ["PEER_MODEL"], device=device)

    def predict(self, inputs):
        """Return one vector per text."""
        return self.model.encode(inputs, batch_size=32, show_progress_bar=False)


if __name__ == "__main__":
    api = Embeddings(max_batch_size=32, batch_timeout=0.001, spec=OpenAIEmbeddingSpec())
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PEER_PORT"]),
        log_level="warning",
        generate_client_file=False,
    )

# mypy: ignore-errors
"""mosec with dynamic batching; JSON is read and written by msgspec, which comes with it.

The wait for more texts is the shortest it has, 1 ms. Address and port come in the variables
`MOSEC_ADDRESS` and `MOSEC_PORT`.
"""

from __future__ import annotations

import os

import msgspec
from engines import load
from mosec import Server, Worker


class Embeddings(Worker):
    """One engine in one worker."""

    def __init__(self):
        """Load the model."""
        self.run = load()

    def deserialize(self, data):
        """Read a body."""
        return msgspec.json.decode(data)

    def serialize(self, data):
        """Write an answer."""
        return msgspec.json.encode(data)

    def forward(self, data):
        """Answer a batch of requests as OpenAI does."""
        vectors = self.run([body["input"] for body in data]).tolist()
        return [
            {
                "object": "list",
                "model": body["model"],
                "data": [{"object": "embedding", "index": 0, "embedding": vector}],
            }
            for body, vector in zip(data, vectors, strict=True)
        ]


if __name__ == "__main__":
    server = Server()
    num = int(os.environ["PEER_WORKERS"])
    server.append_worker(
        Embeddings, num=num, max_batch_size=32, max_wait_time=1, route="/v1/embeddings"
    )
    server.run()

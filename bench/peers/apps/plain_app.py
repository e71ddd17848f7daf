# mypy: ignore-errors
"""The plain server: FastAPI and sentence-transformers, one text at a time, no batching.

The handler is `async`, so that requests run one after the other, each on all of torch's threads.
Without it they would run side by side in a pool and compete for the same cores.
"""

from __future__ import annotations

import os

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(os.environ["PEER_MODEL"], device="cpu")
app = FastAPI()


class Body(BaseModel):
    """OpenAI's request, as far as it is used."""

    model: str
    input: str


@app.post("/v1/embeddings")
async def embeddings(body: Body):
    """Answer as OpenAI does."""
    vector = model.encode(body.input, show_progress_bar=False)
    entry = {"object": "embedding", "index": 0, "embedding": vector.tolist()}
    return {"object": "list", "model": body.model, "data": [entry]}


uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PEER_PORT"]), log_level="warning")

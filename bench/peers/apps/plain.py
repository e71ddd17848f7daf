# mypy: ignore-errors
"""The plain server: FastAPI and an engine, one text at a time, no batching.

The handler is `async`, so that requests run one after the other, each on all threads of the engine.
Without it they would run side by side in a pool and compete for the same cores.
"""

from __future__ import annotations

import os

import uvicorn
from engines import load
from fastapi import FastAPI
from pydantic import BaseModel

run = load()
app = FastAPI()


class Body(BaseModel):
    """OpenAI's request, as far as it is used."""

    model: str
    input: str


@app.post("/v1/embeddings")
async def embeddings(body: Body):
    """Answer as OpenAI does."""
    entry = {"object": "embedding", "index": 0, "embedding": run([body.input])[0].tolist()}
    return {"object": "list", "model": body.model, "data": [entry]}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PEER_PORT"]), log_level="warning")

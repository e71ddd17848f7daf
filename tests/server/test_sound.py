"""Models whose answers are no answers."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from models import checkpoint
from models.families.exits import Exits
from models.inputs.text import TOKENIZER
from search.quality.table import TABLE
from server import catalog
from server.app import create_app
from server.errors import ModelLoadError
from server.served import Served
from server.settings import Settings
from tests.tiny_text import write_text_checkpoint

RARE = 37  # a token that no warm-up input holds
WORD, OTHER = f"w{RARE - 4}", "w1"


def write_spoilt(folder: Path, **rows: float) -> Path:
    """Write the tiny text model with a weight, or the row of a token, of one value."""
    served = catalog.load_one(write_text_checkpoint(folder))
    state = served.model.state_dict()
    for name, value in rows.items():
        tensor = state[name.replace("__", ".")]
        tensor[RARE if name.startswith("embedding__token") else slice(None)] = value
    served.model.load_state_dict(state)
    checkpoint.save(folder, served.model, "exits", torch.float32, [TOKENIZER, TABLE])
    return folder


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A server of a model that is sound but for one token."""
    folder = write_spoilt(tmp_path_factory.mktemp("models"), embedding__token__weight=3e38)
    with TestClient(create_app(Settings(models=folder, policy="fixed"))) as client:
        yield client


def kserve(text: str) -> dict[str, Any]:
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]}]}


def binary(text: str) -> dict[str, Any]:
    return {**kserve(text), "parameters": {"binary_data_output": True}}


PROTOCOLS: list[tuple[str, Any, int, str]] = [
    ("/v1/embeddings", lambda text: {"input": text}, 500, "server_error"),
    ("/v1/embeddings", lambda text: {"input": text, "encoding_format": "base64"}, 500, "server_e"),
    ("/embed", lambda text: {"inputs": text}, 424, "Backend"),
    ("/similarity", lambda t: {"inputs": {"source_sentence": "w1", "sentences": [t]}}, 424, "Back"),
    ("/rerank", lambda text: {"query": text, "texts": ["w2"]}, 424, "Backend"),
    ("/v1/rerank", lambda text: {"query": "w2", "documents": [text]}, 500, "inference_failed"),
    (
        "/v2/rerank",
        lambda text: {"model": "tiny-text", "query": "w2", "documents": [text]},
        500,
        "",
    ),
    ("/v1/similarity", lambda text: {"source": "w2", "texts": [text]}, 500, "inference_failed"),
    ("/v2/models/tiny-text/infer", kserve, 500, ""),
    ("/v2/models/tiny-text/infer", binary, 500, ""),
]


@pytest.mark.parametrize(("path", "body", "status", "kind"), PROTOCOLS)
def test_an_answer_that_is_no_number_is_an_error_in_every_protocol(
    client: TestClient, path: str, body: Any, status: int, kind: str
) -> None:
    assert client.post(path, json=body(OTHER)).status_code == 200
    answer = client.post(path, json=body(WORD))
    assert answer.status_code == status, answer.text
    assert "the answer is not finite" in answer.text
    assert kind in answer.text
    assert client.post(path, json=body(OTHER)).status_code == 200


def test_other_texts_of_the_same_batch_are_not_to_blame(client: TestClient) -> None:
    answer = client.post("/v1/embeddings", json={"input": ["w2", OTHER]})
    assert answer.status_code == 200
    packed = {"input": OTHER, "encoding_format": "base64"}
    vector = client.post("/v1/embeddings", json=packed).json()["data"][0]["embedding"]
    assert np.isfinite(np.frombuffer(base64.b64decode(vector), dtype="<f4")).all()


def load(folder: Path) -> None:
    with TestClient(create_app(Settings(models=folder, policy="fixed"))):
        pass


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"layers__3__ffn__down__weight": 3e38}, "'similarity': the answer is not finite"),
        ({"layers__3__ffn_norm__weight": 0, "layers__3__ffn_norm__bias": 0}, "length 0, not 1"),
    ],
)
def test_a_model_without_answers_is_not_served(
    tmp_path: Path, rows: dict[str, float], message: str
) -> None:
    folder = write_spoilt(tmp_path, **rows)
    with pytest.raises(ModelLoadError, match=message) as caught:
        load(folder)
    # The smallest subnet leaves before that layer.
    assert "tiny-text cannot be served: " in caught.value.message
    assert "subnet {'depth': 4, 'heads': 1.0, 'ffn': 1.0, 'dim': 16}" in caught.value.message


def test_a_model_that_fails_on_long_inputs_alone_is_not_served(tmp_path: Path) -> None:
    served: Served = catalog.load_one(write_text_checkpoint(tmp_path))
    model = served.model
    assert isinstance(model, Exits)
    state = model.state_dict()
    state["embedding.position.weight"][20:] = 3e38
    model.load_state_dict(state)
    checkpoint.save(tmp_path, model, "exits", torch.float32, [TOKENIZER, TABLE])
    with pytest.raises(
        ModelLoadError, match=r"not finite; subnet .*, inputs of shapes \{'text': \[32\]\}"
    ):
        load(tmp_path)

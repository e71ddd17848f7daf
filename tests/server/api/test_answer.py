"""Answers are built without their schemas, and are what the schemas say."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import BaseModel

from server.api.rheostat.schema import InferAnswer, PlanAnswer
from server.api.rheostat.text_schema import EmbeddingsAnswer
from tests.server.samples import image, text_of

IMAGE = {"image": text_of(image())}


@pytest.mark.parametrize(
    ("path", "body", "schema"),
    [
        ("/v1/infer", {"model": "tiny", **IMAGE}, InferAnswer),
        ("/v1/infer", {"model": "tiny", **IMAGE, "budget": {"fraction": 0.5}}, InferAnswer),
        ("/v1/infer", {"model": "tiny-text", "inputs": {"text": "w1"}}, InferAnswer),
        ("/v1/plan", {"model": "tiny"}, PlanAnswer),
        ("/v1/plan", {"model": "tiny-text", "tokens": 3}, PlanAnswer),
        ("/v1/embeddings", {"model": "tiny-text", "input": ["w1", "w2 w3"]}, EmbeddingsAnswer),
        (
            "/v1/embeddings",
            {"model": "tiny-text", "input": "w1", "encoding_format": "base64"},
            EmbeddingsAnswer,
        ),
    ],
)
def test_an_answer_is_what_its_schema_says(
    text_client: TestClient, path: str, body: dict[str, Any], schema: type[BaseModel]
) -> None:
    response = text_client.post(path, json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    read = schema.model_validate_json(response.content, strict=True)
    assert read.model_dump() == answer  # no field is missing, and none is there that is not known
    assert list(read.model_dump()["receipt"]) == list(answer["receipt"])


def test_receipts_of_one_subnet_differ_in_what_was_measured_alone(text_client: TestClient) -> None:
    body = {"model": "tiny-text", "input": "w1 w2"}
    first, second = (
        text_client.post("/v1/embeddings", json=body).json()["receipt"] for _ in range(2)
    )
    measured = {"milliseconds", "predicted_run_ms", "batch_sizes", "shared_flops"}
    steady = [{k: v for k, v in one.items() if k not in measured} for one in (first, second)]
    assert steady[0] == steady[1]
    assert first["milliseconds"] != second["milliseconds"]


def test_receipts_of_models_are_not_mixed_up(text_client: TestClient) -> None:
    for _ in range(3):
        for model in ("tiny", "tiny-text"):
            receipt = text_client.post("/v1/plan", json={"model": model}).json()["receipt"]
            assert receipt["model"] == model
